"""Promise: the unmodified clients work against the local Hub, given its address and a token."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import build_release

API = """
from huggingface_hub import HfApi, CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import *
api = HfApi()
name = "usermirrorer/things"
assert api.whoami()["name"] == "usermirrorer"
api.create_repo(name, repo_type="dataset", private=True)
api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
first = api.upload_file(path_or_fileobj=b"one", path_in_repo="a/one.txt", repo_id=name,
                        repo_type="dataset")
api.create_commit(name, [CommitOperationCopy("a/one.txt", "b/copy.txt"),
                         CommitOperationAdd("data.bin", bytes(range(256)) * 4000)],
                  commit_message="two", repo_type="dataset", parent_commit=first.oid)
api.create_commit(name, [CommitOperationDelete("a/")], commit_message="three", repo_type="dataset")
files = api.list_repo_files(name, repo_type="dataset")
assert files == [".gitattributes", "b/copy.txt", "data.bin"]
assert "a/one.txt" in api.list_repo_files(name, repo_type="dataset", revision=first.oid)
info = api.get_paths_info(name, ["data.bin", "nothing"], repo_type="dataset", expand=True)
assert [(i.path, i.size, i.last_commit.title) for i in info] == [("data.bin", 1024000, "two")]
tree = {e.path for e in api.list_repo_tree(name, "b", repo_type="dataset")}
assert tree == {"b/copy.txt"}
api.create_branch(name, branch="refs/odd/one", repo_type="dataset")
api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=name, repo_type="dataset",
                revision="refs/odd/one")
assert api.file_exists(name, "x", repo_type="dataset", revision="refs/odd/one")
assert not api.file_exists(name, "x", repo_type="dataset")
api.delete_branch(name, branch="refs/odd/one", repo_type="dataset")
api.create_tag(name, tag="v1", repo_type="dataset")
try:
    api.create_tag(name, tag="v1", repo_type="dataset")
    raise SystemExit("a tag was made twice")
except HfHubHTTPError as error:
    assert error.response.status_code == 409
api.delete_tag(name, tag="v1", repo_type="dataset")
titles = [c.title for c in api.list_repo_commits(name, repo_type="dataset")]
assert titles[:2] == ["three", "two"], titles
assert [d.id for d in api.list_datasets(search="thing")] == [name]
assert [r.id for r in api.list_models()] == []
api.auth_check(name, repo_type="dataset", write=True)
anonymous = HfApi(token=False)
for call in (lambda: anonymous.repo_info(name, repo_type="dataset"),
             lambda: anonymous.hf_hub_download(name, "data.bin", repo_type="dataset"),
             lambda: api.repo_info("usermirrorer/none")):
    try:
        call()
        raise SystemExit("something was found")
    except RepositoryNotFoundError:
        pass
assert list(anonymous.list_datasets()) == []
for path, revision, error in (("none", None, EntryNotFoundError),
                              ("data.bin", "none", RevisionNotFoundError)):
    try:
        api.hf_hub_download(name, path, repo_type="dataset", revision=revision)
        raise SystemExit("something was found")
    except error:
        pass
page = "usermirrorer/page"
api.create_repo(page, repo_type="space", space_sdk="static")
api.upload_file(path_or_fileobj=b"---\\nsdk: static\\n---\\n", path_in_repo="README.md",
                repo_id=page, repo_type="space")
assert api.space_info(page).sdk == "static"
api.update_repo_settings(name, repo_type="dataset", private=False, gated="manual")
assert anonymous.repo_info(name, repo_type="dataset").gated == "manual"
try:
    anonymous.hf_hub_download(name, "data.bin", repo_type="dataset")
    raise SystemExit("a gated file was had")
except GatedRepoError:
    pass
api.move_repo("usermirrorer/things", "usermirrorer/moved", repo_type="dataset")
api.delete_repo("usermirrorer/moved", repo_type="dataset")
assert list(api.list_datasets()) == []
"""


def test_hf_api(run):
    run(API)


CONFLICT = """
from concurrent.futures import ThreadPoolExecutor
from huggingface_hub import HfApi, CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError
api = HfApi()
api.create_repo("usermirrorer/m")
head = api.repo_info("usermirrorer/m").sha
def push(n):
    try:
        add = CommitOperationAdd(f"{n}.txt", b"x")
        api.create_commit("usermirrorer/m", [add], commit_message=str(n), parent_commit=head)
        return 0
    except HfHubHTTPError as error:
        return error.response.status_code
with ThreadPoolExecutor(8) as pool:
    outcomes = sorted(pool.map(push, range(8)))
assert outcomes == [0] + [412] * 7, outcomes
assert len(api.list_repo_files("usermirrorer/m")) == 2
"""


def test_of_concurrent_pushes_one_wins(run):
    run(CONFLICT)


PARALLEL = """
import hashlib, os, sys
from concurrent.futures import ThreadPoolExecutor
from huggingface_hub import HfApi, hf_hub_url, get_session
api = HfApi()
api.create_repo("usermirrorer/m")
data = os.urandom(6_000_000)
api.upload_file(path_or_fileobj=data, path_in_repo="w.safetensors", repo_id="usermirrorer/m")
url = hf_hub_url("usermirrorer/m", "w.safetensors")
def get(n):
    start = n * 1000
    part = get_session().get(url, headers={"Range": f"bytes={start}-"})
    assert part.status_code == 206 and part.headers["content-range"].endswith("/6000000")
    return part.content == data[start:]
with ThreadPoolExecutor(32) as pool:
    assert all(pool.map(get, range(32)))
head = get_session().head(url)
assert head.headers["x-linked-etag"].strip('"') == hashlib.sha256(data).hexdigest()
assert head.headers["x-linked-size"] == "6000000"
for asked, wanted in (("bytes=-5", data[-5:]), ("bytes=7-9", data[7:10])):
    assert get_session().get(url, headers={"Range": asked}).content == wanted
assert get_session().get(url, headers={"Range": "bytes=6000000-"}).status_code == 416
etag = head.headers["etag"]
assert get_session().get(url, headers={"If-None-Match": etag}).status_code == 304
"""


def test_32_parallel_ranged_downloads(run):
    run(PARALLEL)


FILES = """
import sys
from huggingface_hub import HfFileSystem, snapshot_download
fs = HfFileSystem()
from huggingface_hub import create_repo
create_repo("usermirrorer/fs", repo_type="dataset")
root = "datasets/usermirrorer/fs"
with fs.open(f"{root}/deep/note.txt", "w") as file:
    file.write("hello")
assert fs.read_text(f"{root}/deep/note.txt") == "hello"
assert fs.glob(f"{root}/**/*.txt") == [f"{root}/deep/note.txt"]
assert fs.info(f"{root}/deep/note.txt")["size"] == 5
fs.rm(f"{root}/deep/note.txt")
assert not fs.exists(f"{root}/deep/note.txt")
fs.pipe(f"{root}/more.bin", b"123" * 1000)
with fs.open(f"{root}/more.bin", "rb") as file:
    file.seek(2997)
    assert file.read() == b"123"
from pathlib import Path
folder = snapshot_download("usermirrorer/fs", repo_type="dataset")
assert Path(folder, "more.bin").read_bytes() == b"123" * 1000
"""


def test_file_system_and_snapshot(run):
    run(FILES)


def test_hf_command_line(local_hub, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.parquet").write_bytes(os.urandom(100_000))
    environment = os.environ | local_hub.environment(tmp_path / "home")
    hf = str(Path(sys.executable).with_name("hf"))

    def call(*words: object) -> str:
        words = [hf, *map(str, words)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "usermirrorer" in call("auth", "whoami")
    call("repos", "create", "usermirrorer/cli", "--repo-type", "dataset")
    call("upload", "usermirrorer/cli", tmp_path / "folder", ".", "--repo-type", "dataset")
    call(
        *("download", "usermirrorer/cli", "--repo-type", "dataset"),
        *("--local-dir", tmp_path / "got"),
    )
    sent, got = (tmp_path / name / "a.parquet" for name in ("folder", "got"))
    assert got.read_bytes() == sent.read_bytes()


DATASETS = """
from datasets import Dataset, DatasetDict, load_dataset
rows = Dataset.from_dict({"a": list(range(100)), "b": ["x"] * 100})
rows.push_to_hub("usermirrorer/rows")
DatasetDict(test=rows.select(range(3))).push_to_hub("usermirrorer/rows", "small")
assert load_dataset("usermirrorer/rows", split="train")[99] == {"a": 99, "b": "x"}
small = load_dataset("usermirrorer/rows", "small", split="test", streaming=True)
assert [row["a"] for row in small] == [0, 1, 2]
"""


def test_datasets_push_to_hub(run):
    run(DATASETS)


MODELS = """
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast
vocabulary = {word: n for n, word in enumerate(["<unk>", "a", "b", "c"])}
plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(vocab_size=4, **sizes))
model.push_to_hub("usermirrorer/tiny")
tokenizer.push_to_hub("usermirrorer/tiny")
again = AutoModelForCausalLM.from_pretrained("usermirrorer/tiny")
assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
assert AutoTokenizer.from_pretrained("usermirrorer/tiny")("a c").input_ids == [1, 3]

from peft import LoraConfig, PeftModel, get_peft_model
adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
adapted.push_to_hub("usermirrorer/adapter")
loaded = PeftModel.from_pretrained(again, "usermirrorer/adapter")
x = torch.tensor([[1, 2, 3]])
assert torch.allclose(adapted(x).logits, loaded(x).logits)

from pathlib import Path
from usermirrorer.hub import releases
folder = Path("{folder}")
model.save_pretrained(folder)
tokenizer.save_pretrained(folder)
(folder / "README.md").write_text("---\\nlicense: apache-2.0\\n---\\n# x\\n")
releases.push_model(folder, "usermirrorer/released", version="1.0.0")
AutoModelForCausalLM.from_pretrained("usermirrorer/released", revision="v1.0.0")
assert releases.versions("usermirrorer/released", "model")[0]["tag"] == "v1.0.0"
"""


def test_transformers_and_peft(run, tmp_path):
    # str.replace and not format: the code has braces of its own.
    run(MODELS.replace("{folder}", str(tmp_path / "model")))


TRAINER = (
    MODELS.partition("model.push_to_hub")[0]
    + """
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer
rows = load_dataset("usermirrorer/mixed", split="train").select_columns(["prompt", "chosen"])
rows = rows.map(lambda row: {"text": row["chosen"][0]["content"]}, remove_columns=rows.column_names)
tokenizer.pad_token = tokenizer.eos_token = "<unk>"
options = SFTConfig("{folder}", hub_model_id="usermirrorer/trained", max_steps=1, use_cpu=True,
                    per_device_train_batch_size=1, report_to="none", bf16=False, max_length=8)
trainer = SFTTrainer(model, args=options, train_dataset=rows, processing_class=tokenizer)
trainer.train()
trainer.push_to_hub()
again = AutoModelForCausalLM.from_pretrained("usermirrorer/trained")
assert torch.equal(again.lm_head.weight, trainer.model.lm_head.weight)
"""
)
EVALUATE = (
    MODELS.partition("model.push_to_hub")[0]
    + """
from pathlib import Path
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
folder = Path("{folder}")
folder.mkdir()
(folder / "tiny.yaml").write_text(
    "task: tiny\\ndataset_path: usermirrorer/mixed\\ndataset_name: scenes_steam\\n"
    "dataset_kwargs: {revision: v1.0.0}\\ntest_split: test\\noutput_type: multiple_choice\\n"
    "doc_to_text: '{{profile}}'\\ndoc_to_choice: '{{exposure}}'\\ndoc_to_target: answer\\n"
    "metric_list: [{metric: acc}]\\n")
tokenizer.eos_token = "<unk>"
tasks = TaskManager(include_path=str(folder), include_defaults=False)
lm = HFLM(model, tokenizer=tokenizer, device="cpu", batch_size=1)
found = lm_eval.simple_evaluate(lm, tasks=["tiny"], task_manager=tasks, bootstrap_iters=0)
assert found["n-samples"]["tiny"]["original"] == 4, found["n-samples"]
assert 0 <= found["results"]["tiny"]["acc,none"] <= 1
"""
)
PUBLISH = """
import sys
from usermirrorer.hub import releases
releases.push(sys.argv[1], "usermirrorer/mixed")
"""


@pytest.mark.parametrize("code", [TRAINER, EVALUATE], ids=["trl", "lm_eval"])
def test_training_and_evaluation_libraries(run, tmp_path, code):
    run(PUBLISH, build_release(tmp_path / "release", "1.0.0"))
    run(code.replace("{folder}", str(tmp_path / "work")), OMP_NUM_THREADS="1")
