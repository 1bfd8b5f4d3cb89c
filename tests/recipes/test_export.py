"""Promise: an exported model is the same model, in the format of llama.cpp."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from usermirrorer import Simulator
from usermirrorer.builders.common.assets import fetch_asset
from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes.export import export, to_gguf

SCENE = {
    "profile": "A nurse",
    "history": ["Saw Alien (1979)"],
    "exposure": ["Heat", "Fargo", "Jaws"],
}


@pytest.mark.slow
def test_the_real_model_comes_back_with_its_logits_tokens_and_template(tmp_path):
    folder, out = fetch_asset("smollm2-135m-instruct"), tmp_path / "model.gguf"
    words = [str(folder), str(out), "--type", "f32"]
    CliRunner().invoke(export, words, catch_exceptions=False)
    text = AutoTokenizer.from_pretrained(folder)
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file=out.name)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi, été 3!"}]
    shown = [t.apply_chat_template(chat, add_generation_prompt=True) for t in (text, again)]
    assert shown[0]["input_ids"] == shown[1]["input_ids"]
    ids = torch.tensor([shown[0]["input_ids"]])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=out.name, dtype=torch.float32)
    with torch.no_grad():
        ours, theirs = model(ids).logits, back(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)
    asked = [
        Simulator.from_pretrained(str(m)).choose(**SCENE, mode="direct") for m in (folder, out)
    ]
    assert asked[0].probabilities == pytest.approx(asked[1].probabilities, abs=1e-4)
    assert max(asked[0].probabilities) > 0.34


def test_what_is_no_whole_model_is_told_as_such(tmp_path):
    with pytest.raises(UserError, match="holds no model"):
        to_gguf(str(tmp_path), tmp_path / "out.gguf")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is an adapter.*--merge_adapter"):
        to_gguf(str(tmp_path), tmp_path / "out.gguf")
    with pytest.raises(UserError, match="does not end in"):
        CliRunner().invoke(export, [str(tmp_path), "out.bin"], catch_exceptions=False)
    assert not list(tmp_path.glob("*.gguf"))
