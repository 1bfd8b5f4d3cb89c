"""`croissant.json`: a release in MLCommons' Croissant 1.1, with the fields of its RAI vocabulary.

Data search engines and loaders read it. Paths are relative to the file, so that it describes a
folder and any Hub it lies on; hashes of the files are in `manifest.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from usermirrorer.hub.layout import layout
from usermirrorer.model_cards import datasheet, paper

FILE = "croissant.json"
_CROISSANT = "http://mlcommons.org/croissant/"
#: The context that the specification gives (version 1.1).
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": _CROISSANT,
    "rai": f"{_CROISSANT}RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{
        term: f"cr:{term}"
        for term in (
            *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract"),
            *("field", "fileProperty", "fileObject", "fileSet", "format", "includes", "isArray"),
            *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
            *("references", "regex", "repeated", "replace", "samplingRate", "separator"),
            *("source", "subField", "transform"),
        )
    },
}
_TYPES = (
    (pa.types.is_boolean, "sc:Boolean"),
    (pa.types.is_integer, "sc:Integer"),
    (pa.types.is_floating, "sc:Float"),
    (pa.types.is_timestamp, "sc:DateTime"),
)


def describe(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a release, as JSON-LD.

    Args:
        folder: Of the release, with its Parquet files.
        manifest: Its manifest: `repo_id`, `version`.
    """
    # The configurations of one domain or source are parts of those of all.
    tables = {name: splits for name, splits in layout(folder).items() if "_" not in name}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [f"{_CROISSANT}1.1", f"{_CROISSANT}RAI/1.0"],
        "name": manifest["repo_id"].replace("/", "-"),
        "alternateName": [manifest["repo_id"]],
        "description": "Scenes of real feedback on recommender systems, each with what the person "
        "really chose, and preference pairs of decision processes that explain choices.",
        "license": "https://choosealicense.com/licenses/cc-by-sa-4.0/",
        "url": f"https://huggingface.co/datasets/{manifest['repo_id']}",
        "version": manifest["version"],
        "keywords": ["recommender systems", "user simulation", "preference learning"],
        "inLanguage": "en",
        "citeAs": paper.BIBTEX,
        "sameAs": paper.LINK,
        **{f"rai:{name}": text for name, text in datasheet.RAI.items()},
        "distribution": [_files(name) for name in tables],
        "recordSet": [
            _records(name, pq.read_schema(next(iter(splits.values()))[0]))
            for name, splits in tables.items()
        ],
    }


def _files(table: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"files-{table}",
        "name": f"files-{table}",
        "encodingFormat": "application/x-parquet",
        "includes": f"data/{table}/*/*.parquet",
    }


def _records(table: str, schema: pa.Schema) -> dict[str, Any]:
    split = {
        "@type": "cr:Field",
        "@id": f"{table}/split",
        "name": "split",
        "dataType": "sc:Text",
        "source": {
            "fileSet": {"@id": f"files-{table}"},
            "extract": {"fileProperty": "fullpath"},
            "transform": {"regex": r".*/(train|test)-\d+-of-\d+\.parquet$"},
        },
    }
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "field": [split, *_fields(table, schema)],
    }


def _fields(table: str, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    for field in schema:
        kind, listed = field.type, pa.types.is_list(field.type)
        if listed:
            kind = kind.value_type
        source = {"fileSet": {"@id": f"files-{table}"}, "extract": {"column": field.name}}
        described: dict[str, Any] = {
            "@type": "cr:Field",
            "@id": f"{table}/{field.name}",
            "name": field.name,
            "source": source,
        }
        if listed:
            described |= {"isArray": True, "arrayShape": "-1"}
        if pa.types.is_struct(kind):
            described["subField"] = [
                _part(described["@id"], source, kind.field(n)) for n in range(kind.num_fields)
            ]
        else:
            described["dataType"] = _type(kind)
        yield described


def _part(parent: str, source: Mapping[str, Any], field: pa.Field) -> dict[str, Any]:
    """Return the description of a part of the messages in a column."""
    return {
        "@type": "cr:Field",
        "@id": f"{parent}/{field.name}",
        "name": field.name,
        "dataType": _type(field.type),
        "source": {**source, "transform": {"jsonPath": field.name}},
    }


def _type(kind: pa.DataType) -> str:
    return next((name for is_kind, name in _TYPES if is_kind(kind)), "sc:Text")
