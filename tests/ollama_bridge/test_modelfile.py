"""Modelfiles: Ollama's grammar, and templates that fill to what they say."""

from __future__ import annotations

from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.errors import ModelfileError
from ollama_bridge.modelfile import (
    TEMPLATE_FAMILIES,
    Command,
    Modelfile,
    blob_paths,
    parse_modelfile,
    quote,
    render,
    render_template,
)

FAMILIES = [*TEMPLATE_FAMILIES, "something-new"]
BLOB = "/usr/share/ollama/.ollama/models/blobs/sha256-" + "0a" * 32


def test_every_instruction() -> None:
    modelfile = parse_modelfile(
        "\ufeff# a comment\n"
        "from llama3.2:1b\r\n"
        "ADAPTER ./a dir/lora.gguf\n"
        "\n"
        '  Template """{{ .System }}\n\n"quoted"\n{{ .Prompt }}"""\n'
        'SYSTEM "You are\ntwo lines"\n'
        "PARAMETER stop <|im_end|>\nPARAMETER stop '\"x\nPARAMETER temperature 0.5\n"
        "LICENSE MIT\nLICENSE Apache-2.0 # not a comment\n"
        "MESSAGE user Hello there\nMESSAGE assistant Hi\n"
        "RENDERER r\nPARSER p\nREQUIRES 0.14.0\nDRAFT d.gguf"
    )
    assert modelfile.from_ == "llama3.2:1b"
    assert modelfile.adapter == "./a dir/lora.gguf"
    assert modelfile.values("template") == ('{{ .System }}\n\n"quoted"\n{{ .Prompt }}',)
    assert modelfile.values("system") == ("You are\ntwo lines",)
    assert modelfile.parameters == {"stop": ("<|im_end|>", "'\"x"), "temperature": ("0.5",)}
    assert modelfile.values("license") == ("MIT", "Apache-2.0 # not a comment")
    assert [c.key for c in modelfile.commands if c.name == "message"] == ["user", "assistant"]
    assert modelfile.commands[-1] == Command("draft", "d.gguf")


def test_later_adapter_replaces_the_earlier() -> None:
    assert parse_modelfile("FROM a\nADAPTER x\nADAPTER y\n").adapter == "y"
    assert parse_modelfile("FROM a\n").adapter is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no FROM"),
        ("# FROM a\n", "no FROM"),
        ("FROM a\nFORM b\n", r"\(line 2\): command must be one of"),
        ("FROM\n", r"\(line 1\): FROM needs a value"),
        ("FROMa\n", "command must be one of"),
        ("FROM a\nPARAMETER stop\n", "needs a value"),
        ("FROM a\nMESSAGE robot hi\n", "role must be one of"),
        ('FROM a\nSYSTEM """never\nclosed', r"\(line 2\): the text opened"),
        ('FROM a\nSYSTEM "never', "closed"),
        ("FROM a\n" + "x" * (1 << 20), "characters"),
    ],
)
def test_grammar_is_enforced_with_the_line(text: str, words: str) -> None:
    with pytest.raises(ModelfileError, match=words):
        parse_modelfile(text)


@pytest.mark.parametrize("value", ['a"""\nb', "a\x1bb", "a\rb", "a\x00b", "\ud800"])
def test_values_that_cannot_be_written(value: str) -> None:
    with pytest.raises(ModelfileError):
        quote(value)


@pytest.mark.parametrize(
    "value", ["", " ", "a", '"', '"""', '"a"', " a ", "a\nb", '"a\nb"', 'a"""', '\n"', "#x", "\u00a0"]
)
def test_values_come_back_as_they_were(value: str) -> None:
    assert parse_modelfile(f"FROM a\nSYSTEM {quote(value)}\nLICENSE x\n").values("system") == (value,)


@given(st.text(alphabet=st.sampled_from('ab"# \n\t\u2028{}\x1b'), max_size=30))
def test_any_value_comes_back_or_is_refused(value: str) -> None:
    modelfile = Modelfile((Command("from", "base"), Command("system", value), Command("license", "MIT")))
    try:
        text = render(modelfile)
    except ModelfileError:
        return
    assert parse_modelfile(text) == modelfile


@given(st.text(max_size=200))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        modelfile = parse_modelfile(text)
    except ModelfileError as error:
        assert str(error).endswith(".")  # noqa: PT017 - both outcomes are right
    else:
        assert modelfile.from_ is not None


class TestTemplates:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_fill_to_what_they_were_given(self, family: str) -> None:
        system = 'Answer in "SQL".\nFROM evil\n# no comment'
        parameters = {"temperature": ["0"], "stop": ["</s>", '"']}
        text = render_template(
            family, base="llama3.2:1b", adapter="/a dir/x.gguf", system=system, parameters=parameters
        )
        modelfile = parse_modelfile(text)
        assert modelfile.from_ == "llama3.2:1b"
        assert modelfile.values("from") == ("llama3.2:1b",)
        assert modelfile.adapter == "/a dir/x.gguf"
        assert modelfile.values("system") == (system,)
        assert modelfile.parameters == {"temperature": ("0",), "stop": ("</s>", '"')}
        assert modelfile.values("template") == ()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_base_with_a_name_needs_only_from(self, family: str) -> None:
        assert parse_modelfile(render_template(family, base="b")) == Modelfile((Command("from", "b"),))

    @pytest.mark.parametrize("family", sorted(TEMPLATE_FAMILIES))
    def test_base_file_gets_the_family_template_and_stops(self, family: str) -> None:
        modelfile = parse_modelfile(render_template(family, base="/x/base.gguf", base_is_file=True))
        (template,) = modelfile.values("template")
        assert "{{ .Prompt }}" in template
        assert "{{ .Response }}" in template
        assert all(stop in template for stop in modelfile.parameters["stop"])

    @pytest.mark.parametrize("bad", [{"stop\nFROM x": ["a"]}, {"Stop": ["a"]}, {"": ["a"]}])
    def test_t04_parameters_cannot_add_lines(self, bad: dict[str, list[str]]) -> None:
        with pytest.raises(ModelfileError):
            render_template("llama", base="b", parameters=bad)

    def test_t04_jinja_and_go_syntax_in_values_stays_text(self) -> None:
        system = "[[ base ]] [% raw %] {{ .System }} {{ 7*7 }}"
        assert parse_modelfile(render_template("llama", base="b", system=system)).values("system") == (system,)

    def test_each_says_which_fields_are_filled(self) -> None:
        templates = [file for file in files("modelfiles").iterdir() if file.name.endswith(".modelfile.tmpl")]
        assert {file.name.split(".")[0] for file in templates} == {*TEMPLATE_FAMILIES.values(), "default"}
        for file in templates:
            header = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
            for field in ("base", "base_is_file", "adapter", "system", "parameters"):
                assert any(line.split()[1:2] == [field] for line in header), (file.name, field)


def test_blob_paths_of_show() -> None:
    text = (
        f'# Modelfile generated by "ollama show"\n# To build a new one, replace FROM with:\n# FROM {BLOB}\n\n'
        f'FROM {BLOB}\nADAPTER {BLOB[:-1]}b\nADAPTER "{BLOB[:-1]}c"\nTEMPLATE """\nADAPTER {BLOB}\nFROM {BLOB}\n"""\n'
    )
    paths = blob_paths(text)
    assert paths.from_ == BLOB
    assert paths.adapters == (f"{BLOB[:-1]}b", f"{BLOB[:-1]}c")


@pytest.mark.parametrize(
    "text",
    ["", "FROM llama3.2:1b", f'SYSTEM """\nFROM {BLOB}\n"""', f"TEMPLATE x\nFROM {BLOB}", "FROM /blobs/sha256-zz"],
)
def test_show_texts_without_a_blob(text: str) -> None:
    assert blob_paths(text).from_ is None


def test_windows_paths_of_show() -> None:
    path = r"C:\Users\A B\.ollama\models\blobs\sha256-" + "0a" * 32
    assert blob_paths(f"FROM {path}\n").from_ == path
