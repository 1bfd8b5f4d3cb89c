"""Modules keep their old names, with a warning, as long as people may have them in their code."""

from __future__ import annotations

import importlib
import sys

import pytest

from usermirrorer.builders import renamed


@pytest.mark.parametrize("name", sorted(renamed.MODULES))
def test_an_old_module_name_still_gives_its_public_names(name):
    sys.modules.pop(f"usermirrorer.builders.{name}", None)
    with pytest.warns(DeprecationWarning, match=f"builders.{name} is now"):
        old = importlib.import_module(f"usermirrorer.builders.{name}")
    for new in renamed.MODULES[name]:
        module = importlib.import_module(f"usermirrorer.builders.{new}")
        public = [key for key in vars(module) if not key.startswith("_")]
        assert public and all(getattr(old, key) is getattr(module, key) for key in public)
    for function in renamed.FUNCTIONS.get(name, {}):
        assert callable(getattr(old, function))


def test_what_scripts_of_version_0_1_import_still_works():
    from usermirrorer.builders.dataset import UserMirrorerBuilder
    from usermirrorer.builders.prompts import messages, parse
    from usermirrorer.builders.scenes import SceneConfig

    assert SceneConfig().test == 640 and callable(messages) and callable(parse)
    assert "movielens" in UserMirrorerBuilder.builder_configs


def test_a_name_that_never_was_is_still_an_error():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("usermirrorer.builders.nothing")
