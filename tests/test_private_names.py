"""Private names of other libraries: each library's have one home here, and a canary.

A canary fails when an upgrade takes a name away or changes what it is used for, and says so in a
word; what fails first otherwise is far away and looks like something else.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from tests.product import FOLDERS, ROOT, modules

#: Home -> the library whose private names it may use.
HOMES = {
    "builders.common.transformers_internals": "transformers",
    "eval_harness.lm_eval_internals": "lm_eval",
    "hub.client_internals": "huggingface_hub and httpcore2",
    "hub.server.uvicorn_internals": "uvicorn",
    "recipes.trl_internals": "trl",
}


def has(owner: object, name: str, used_for: str) -> None:
    """Fail in plain words unless `owner` still has a name."""
    where = getattr(owner, "__qualname__", getattr(owner, "__name__", owner))
    assert hasattr(owner, name), f"{where}.{name} is gone: {used_for}"


def lines_of(function: object) -> str:
    return inspect.getsource(function)  # type: ignore[arg-type]


def private(name: str) -> bool:
    if name in ("_asdict", "_fields", "_make", "_replace"):  # the public ones of named tuples
        return False
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def foreign_private_names(module: str, tree: ast.Module) -> list[str]:
    """Return the private names of others that a module imports, reads, sets or looks up.

    `self._x` and `cls._x` are a class's own; so is what a module of ours defines for itself.
    """
    defined = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner not in ("self", "cls") and owner not in defined:
                names.append((node.lineno, f"{owner}.{node.attr}"))
        elif isinstance(node, ast.ImportFrom):
            path = f"{node.module or ''}."
            inner = re.search(r"(^|\.)_[a-z]", path) and not path.startswith("__future__")
            names += [
                (node.lineno, f"{node.module}.{a.name}")
                for a in node.names
                if inner or private(a.name)
            ]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            looked_up = node.func.id in ("getattr", "setattr", "hasattr", "delattr")
            texts = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
            names += [(node.lineno, t) for t in texts if looked_up and private(str(t))]
    return [f"{module}:{line} {name}" for line, name in names]


def test_private_names_of_others_are_used_in_their_homes_only():
    used = {module: foreign_private_names(module, tree) for module, (_, tree) in modules().items()}
    homeless = [name for module, names in used.items() if module not in HOMES for name in names]
    assert not homeless, "use a public name, or move it to an `*_internals.py`: " + str(homeless)


def test_other_libraries_are_not_changed_outside_the_homes():
    """Setting a global or an attribute of an imported module is use of its inside, `_x` or not."""
    changed = []
    for module, (_, tree) in modules().items():
        imported = {
            alias.asname or alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
            if not (getattr(node, "module", "") or alias.name).startswith("usermirrorer")
        }
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            changed += [
                f"{module}:{node.lineno} {ast.unparse(target)}"
                for target in targets
                if isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id in imported
                and module not in HOMES
            ]
    assert not changed


def test_homes_are_the_files_that_lint_lets_use_private_names():
    files = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*_internals.py")
    }
    assert files == set(HOMES)


def test_trl_still_decides_by_use_triton_which_positions_it_scores():
    utils = pytest.importorskip("trl.trainer.utils")
    used_for = "recipes/trl_internals.py skips prompt positions on CPUs by it"
    has(utils, "_use_triton", used_for)
    calls = lines_of(utils).count("compact = _use_triton(hidden_states.device)")
    assert calls, f"trl.trainer.utils no longer calls _use_triton(device): {used_for}"


def test_the_hubs_client_still_reads_by_these_numbers():
    import httpcore2
    from huggingface_hub import CommitOperationAdd, constants, file_download

    used_for = "hub/client_internals.py makes downloads twice as fast by it"
    has(constants, "DOWNLOAD_CHUNK_SIZE", used_for)
    assert "constants.DOWNLOAD_CHUNK_SIZE" in lines_of(file_download), used_for
    has(httpcore2.HTTP11Connection, "READ_NUM_BYTES", used_for)
    methods = [f for f in vars(httpcore2.HTTP11Connection).values() if inspect.isfunction(f)]
    reads = any("READ_NUM_BYTES" in method.__code__.co_names for method in methods)
    assert reads, f"HTTP11Connection no longer reads READ_NUM_BYTES: {used_for}"
    add = CommitOperationAdd("x", b"x")
    has(add.upload_info, "sha256", "hub/client_internals.py spares hashing a file twice by it")


def test_a_download_reads_as_much_at_a_time_as_it_writes():
    import httpcore2
    from huggingface_hub import constants

    from usermirrorer.hub.client_internals import even_reads

    before = constants.DOWNLOAD_CHUNK_SIZE, httpcore2.HTTP11Connection.READ_NUM_BYTES
    with even_reads():
        assert constants.DOWNLOAD_CHUNK_SIZE == httpcore2.HTTP11Connection.READ_NUM_BYTES == 2**20
    assert before == (constants.DOWNLOAD_CHUNK_SIZE, httpcore2.HTTP11Connection.READ_NUM_BYTES)


def test_uvicorn_still_has_the_connection_where_uploads_take_it_over():
    implementation = pytest.importorskip("uvicorn.protocols.http.httptools_impl")
    used_for = "hub/server/uvicorn_internals.py takes uploads past the web server by it"
    has(implementation.HttpToolsProtocol, "on_headers_complete", used_for)
    begun = lines_of(implementation.HttpToolsProtocol.on_headers_complete)
    assert "self.cycle = RequestResponseCycle(" in begun, f"protocol.cycle is gone: {used_for}"
    cycle = lines_of(implementation.RequestResponseCycle.__init__)
    for name in ("transport", "flow", "keep_alive", "body"):
        assert f"self.{name} = " in cycle, f"RequestResponseCycle.{name} is gone: {used_for}"
    has(implementation.FlowControl, "pause_reading", used_for)
    used_for = "hub/server/uvicorn_internals.py lets bodies come in large pieces by it"
    has(implementation, "HIGH_WATER_LIMIT", used_for)
    read = lines_of(implementation.HttpToolsProtocol.on_body)
    assert "> HIGH_WATER_LIMIT" in read, f"on_body no longer reads HIGH_WATER_LIMIT: {used_for}"


def test_uvicorn_still_has_what_the_limits_of_connections_look_at():
    implementation = pytest.importorskip("uvicorn.protocols.http.httptools_impl")
    used_for = "hub/server/uvicorn_internals.py limits heads, still clients and connections by it"
    protocol = implementation.HttpToolsProtocol
    for name in ("connection_made", "connection_lost", "data_received", "on_message_begin"):
        has(protocol, name, used_for)
    for name in ("on_body", "on_response_complete", "pause_writing"):
        has(protocol, name, used_for)
    begun = lines_of(protocol.__init__) + lines_of(protocol.connection_made)
    for name in ("loop", "connections", "transport", "flow", "cycle"):
        assert f"self.{name}" in begun, f"HttpToolsProtocol.{name} is gone: {used_for}"
    cycle = lines_of(implementation.RequestResponseCycle.__init__)
    for name in ("more_body", "response_started", "response_complete"):
        assert f"self.{name} = " in cycle, f"RequestResponseCycle.{name} is gone: {used_for}"
    paused = lines_of(implementation.FlowControl.__init__)
    for name in ("read_paused", "write_paused"):
        assert f"self.{name} = " in paused, f"FlowControl.{name} is gone: {used_for}"


def test_lm_eval_still_calls_requests_by_their_names_and_models_by_these():
    pytest.importorskip("lm_eval")
    from lm_eval import evaluator
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.huggingface import HFLM

    looked_up = "getattr(lm, reqtype)(" in lines_of(evaluator.evaluate)
    assert looked_up, "lm_eval no longer looks requests up on the model: lm_eval_internals.py"
    used_for = "eval_harness/lm_eval_internals.py scores labels by it"
    has(TemplateLM, "_loglikelihood_tokens", used_for)
    parameters = list(inspect.signature(TemplateLM._loglikelihood_tokens).parameters)
    assert parameters[:2] == ["self", "requests"], f"its parameters changed: {used_for}"
    has(HFLM, "_model_call", "eval_harness/lm_eval_internals.py tells plain models by it")


def test_lm_evals_vllm_model_still_takes_its_sampling_parameters():
    lm_eval = pytest.importorskip("lm_eval")
    source = (Path(lm_eval.__file__).parent / "models" / "vllm_causallms.py").read_text(
        encoding="utf-8"
    )
    (generate,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "_model_generate"
    )
    names = {argument.arg for argument in generate.args.args}
    missing = {"requests", "generate", "sampling_params"} - names
    assert not missing, f"VLLM._model_generate lost {missing}: eval_harness/lm_eval_internals.py"


def test_transformers_still_says_which_attention_a_model_has_and_whether_it_is_recurrent():
    pytest.importorskip("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

    from usermirrorer.builders.common import transformers_internals as inside

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    small = LlamaConfig(**sizes, intermediate_size=8, num_attention_heads=1)
    small._attn_implementation = "sdpa"
    llama = LlamaForCausalLM(small)
    assert inside.attention_of(llama) == "sdpa", "config._attn_implementation changed"
    assert not inside.is_recurrent(llama)
    assert inside.is_recurrent(MambaForCausalLM(MambaConfig(**sizes))), "_is_stateful changed"


def test_a_model_that_was_unpacked_is_saved_as_floats(tmp_path):
    pytest.importorskip("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    from usermirrorer.builders.common.transformers_internals import forget_quantization

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 16, "intermediate_size": 8}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1))
    model.config.quantization_config = {"quant_method": "gguf"}
    model.is_quantized = True
    forget_quantization(model)
    model.save_pretrained(tmp_path)
    assert "quantization" not in (tmp_path / "config.json").read_text()
