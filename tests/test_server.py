"""The model behind a server: a tiny model on this machine, and a process that plays the server."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("httpx2")

from isara.backends import patience  # noqa: E402
from isara.backends.adapter import write_blank  # noqa: E402
from isara.backends.dialect import rendered  # noqa: E402
from isara.backends.engines import open_engine  # noqa: E402
from isara.backends.hf import TransformersModel  # noqa: E402
from isara.backends.server import ServerModel, name_of  # noqa: E402
from isara.backends.template import Encoder  # noqa: E402
from isara.config import load  # noqa: E402
from isara.errors import BackendError, SettingsError  # noqa: E402
from isara.protocols import Chat, Sampling, Turn  # noqa: E402
from serverproc import serving, start  # noqa: E402
from serving import log_of  # noqa: E402
from tiny import checkpoint, tokenizer  # noqa: E402

TEXT = "Question: Do goldfish forget?\nQuestion: Is the night short?\nQuestion:"
CHAT = Chat((Turn("user", "Do goldfish forget?"), Turn("assistant", "No."), Turn("user", "Is the night short?")))
ASK = Chat(CHAT.turns[:2], opens="user")
MARKED = Chat((Turn("user", "What does <|im_end|> mean?"),))
DRAWN = Sampling(40, 0.8, 0.95, ("\n",))
GREEDY = Sampling(40)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def servers(base):
    with (
        serving("vllm", "--tokenizer", base.folder) as vllm,
        serving("llamacpp", "--tokenizer", base.folder) as llamacpp,
        serving("text", "--tokenizer", base.folder) as text,
        serving("chat", "--tokenizer", base.folder) as chat,
    ):
        yield {"vllm": vllm, "llamacpp": llamacpp, "text": text, "chat": chat}


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(patience, "_FIRST", 0.001)


@pytest.fixture
def opened(base, servers):
    def opened(style, *sets):
        servers[style].faults()
        return open_engine(base, load(None, [f"server.url={servers[style].url}", "train.rank=4", *sets]))

    return opened


@pytest.fixture
def adapter(base, tmp_path):
    folder = tmp_path / "adapter"
    write_blank(folder, base.folder, 4)
    return folder


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_a_prompt_as_text_has_the_tokens_of_the_prompt_as_tokens():
    encoder = Encoder(tokenizer())
    for prompt in (TEXT, CHAT, ASK):
        text = rendered(encoder, prompt, "text")
        assert encoder.ids(text) == rendered(encoder, prompt, "tokens") == encoder.prompt(prompt)


def test_the_mark_of_a_beginning_is_left_to_the_server_where_its_tokenizer_adds_it():
    encoder = Encoder(tokenizer(None, bos="<|endoftext|>", adds_bos=True))
    text = rendered(encoder, TEXT, "text")
    assert text == TEXT
    # as the server's tokenizer will read it
    assert encoder.tokenizer(text).input_ids == encoder.prompt(TEXT)


def test_what_a_form_cannot_say_is_not_said():
    encoder = Encoder(tokenizer())
    assert rendered(encoder, MARKED, "text") is rendered(encoder, MARKED, "chat") is None
    assert rendered(encoder, MARKED, "tokens") == encoder.prompt(MARKED)
    assert rendered(encoder, TEXT, "chat") is rendered(encoder, ASK, "chat") is None
    assert rendered(encoder, "", "text") is None
    messages = rendered(encoder, CHAT, "chat")
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert rendered(Encoder(tokenizer(None)), CHAT, "chat") is None


# -- opening -----------------------------------------------------------------------------------------------------------


def test_what_was_found_is_said_and_noted(opened, servers):
    engine = opened("vllm")
    url = servers["vllm"].url
    assert engine.why == f"Engine: server at {url} (vllm) with 'tiny', asked with token ids (server.url names one)."
    assert engine.notes == ("The server takes tuned weights while it runs: it answers and scores for every arm.",)
    assert engine.facts == {
        "server": url,
        "served_by": "vllm",
        "served_model": "tiny",
        "prompts": "token ids",
        "tuned_answers": "server",
        "likelihoods": "server",
    }


def test_a_server_without_adapters_says_who_does_the_rest(opened):
    engine = opened("llamacpp", "model.engine='server'")
    assert engine.why.endswith("(asked for).")
    assert engine.notes == (
        "The server does not take tuned weights (status 404, 'Not Found'): tuned models answer with transformers on "
        f"cpu in {str(engine.model.local.dtype).removeprefix('torch.')}.",
        "So that all arms are scored alike, every likelihood is computed there, too.",
    )
    assert (engine.facts["tuned_answers"], engine.facts["likelihoods"]) == ("transformers", "transformers")


@pytest.mark.parametrize(("style", "form"), [("text", "text"), ("chat", "chat messages")])
def test_the_way_to_ask_is_found_out(opened, style, form):
    engine = opened(style)
    assert engine.facts["prompts"] == form
    assert any("offers only chat" in note for note in engine.notes) == (style == "chat")


def test_adapters_are_not_tried_where_they_are_not_wanted(opened, servers):
    for setting in ("server.adapters=false", "train.method='full'"):
        assert not opened("vllm", setting).model.line.served.adapters
        assert not [entry for entry in servers["vllm"].asked if "lora" in entry["path"]]


def test_the_adapter_of_the_probe_does_not_stay(opened, servers):
    opened("vllm")
    asked = [entry for entry in servers["vllm"].asked if "lora" in entry["path"]]
    assert [entry["path"] for entry in asked] == ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]
    assert asked[0]["body"]["lora_name"] == asked[1]["body"]["lora_name"]


def test_a_server_that_reads_prompts_otherwise_is_pointed_out(base):
    with serving("text", "--tokenizer", base.folder, "--extra", "1") as server:
        engine = open_engine(base, load(None, [f"server.url={server.url}"]))
    assert any("tokens as" in note and "add tokens of its own" in note for note in engine.notes)


def test_a_server_that_ignores_seeds_draws_nothing(base):
    with serving("llamacpp", "--tokenizer", base.folder, "--deaf") as server:
        engine = open_engine(base, load(None, [f"server.url={server.url}"]))
        assert any("the same whatever the seed" in note for note in engine.notes)
        few = replace(DRAWN, max_tokens=4)
        drawn = engine.model.complete([TEXT] * 2, few, seeds=[1, 2])
        assert drawn == TransformersModel(base).complete([TEXT] * 2, few, seeds=[1, 2])
        server.faults()
        assert engine.model.complete([CHAT], GREEDY, seeds=[1])[0].text
        assert len(server.bodies()) == 1


def test_a_key_over_the_open_network_is_warned_of(base, servers, monkeypatch):
    from isara.backends import opening

    monkeypatch.setenv("ISARA_SERVER_KEY", "sesame")
    monkeypatch.setattr(opening, "is_near", lambda url: False)
    engine = open_engine(base, load(None, [f"server.url={servers['text'].url}"]))
    assert "unencrypted" in engine.notes[-1]


def test_the_model_is_the_one_that_is_listed_or_named(opened, base, servers):
    assert opened("text", "server.model='tiny'").facts["served_model"] == "tiny"
    with pytest.raises(BackendError, match=r"for 'other' \(tokens: .*text: status 404, \"The model `other` does not"):
        opened("text", "server.model='other'")
    vllm = servers["vllm"]
    vllm.faults()
    # a loaded adapter is listed with its model, and is not taken for another one
    engine = opened("vllm")
    assert engine.facts["served_model"] == "tiny"


def test_a_server_without_an_address_is_a_mistake_in_the_settings(base):
    with pytest.raises(SettingsError, match=r"model\.engine: 'server' needs its address\. Give --server URL"):
        open_engine(base, load(None, ["model.engine='server'"]))


def test_a_server_that_wants_a_key_says_which(base):
    refused = pytest.raises(BackendError, match=r"/v1/models: status 401.*export it as ISARA_SERVER_KEY")
    with serving("text", "--key", "sesame") as server, refused:
        open_engine(base, load(None, [f"server.url={server.url}"]))


# -- completing --------------------------------------------------------------------------------------------------------


def test_completions_come_in_order_each_by_its_own_seed(opened):
    model = opened("llamacpp").model
    seeds = list(range(30))
    together = model.complete([TEXT] * 30, DRAWN, seeds=seeds)
    assert len({done.text for done in together}) > 5
    alone = [model.complete([TEXT], DRAWN, seeds=[seed])[0] for seed in seeds[:5]]
    assert together[:5] == alone
    assert all(done.likelihood is None and done.tokens > 0 for done in together)


def test_a_stop_string_that_the_server_overlooked_is_cut_and_ends_the_completion(opened, servers):
    model = opened("llamacpp").model
    stop = Sampling(40, 0.8, 0.95, (" ",))
    for done in model.complete([TEXT] * 8, stop, seeds=range(8)):
        assert " " not in done.text
        assert done.finished
    assert servers["llamacpp"].bodies()[-1]["stop"] == [" "]


@pytest.mark.parametrize(
    ("style", "here", "there"), [("chat", [TEXT, ASK, MARKED], [CHAT]), ("text", [MARKED], [TEXT, ASK, CHAT])]
)
def test_what_the_server_cannot_be_asked_is_completed_here(opened, servers, base, style, here, there):
    model = opened(style).model
    servers[style].faults()
    prompts = [*here, *there]
    done = model.complete(prompts, Sampling(6), seeds=[0] * len(prompts))
    assert done[: len(here)] == TransformersModel(base).complete(here, Sampling(6), seeds=[0] * len(here))
    assert len(servers[style].asked) == len(there)


def test_failures_on_the_way_change_nothing(opened, servers):
    model = opened("llamacpp").model
    smooth = model.complete([TEXT] * 20, DRAWN, seeds=range(20))
    servers["llamacpp"].faults("503", "429:0", "cut", "no json", "empty", "500", "hang up", "no text")
    assert model.complete([TEXT] * 20, DRAWN, seeds=range(20)) == smooth
    assert len(servers["llamacpp"].asked) == 28


def test_push_back_lowers_what_is_under_way(opened, servers):
    model = opened("llamacpp").model
    model.line.pace.limit = 8
    servers["llamacpp"].faults("429:0")
    model.complete([TEXT] * 2, DRAWN, seeds=[1, 2])
    assert model.line.pace.limit == 4


def test_no_more_requests_are_under_way_than_allowed(opened, servers):
    model = opened("llamacpp", "server.concurrency=3").model
    servers["llamacpp"].faults(*["stall:0.01"] * 20)
    model.complete([TEXT] * 20, DRAWN, seeds=range(20))
    assert 1 < servers["llamacpp"].told()["most"] <= 3


def test_a_dead_server_ends_in_one_error(base):
    server = start("llamacpp", "--tokenizer", base.folder)
    model = open_engine(base, load(None, [f"server.url={server.url}", "server.retries=2"])).model
    server.stop()
    with pytest.raises(BackendError, match=r"no usable answer in 3 tries .*start the same command again"):
        model.complete([TEXT] * 20, DRAWN, seeds=range(20))


# -- scoring, and adapters ---------------------------------------------------------------------------------------------


def test_the_server_scores_where_it_can(opened):
    model = opened("vllm").model
    encoder = model.local.encoder
    pairs = [(CHAT, "It does not."), (TEXT, " Is it?"), (CHAT, "")]
    scored = model.score(pairs)
    for (prompt, text), likelihood in zip(pairs, scored, strict=True):
        before, own = encoder.prompt(prompt), encoder.completion(prompt, text)
        expected = [log_of("tiny", token, len(before) + i) for i, token in enumerate(own)]
        assert likelihood.tokens == len(own)
        assert math.isclose(likelihood.total, sum(expected), abs_tol=1e-9)
    assert model.local.base._network is None, "this machine's copy was not needed"


def test_the_likelihood_of_a_completion_is_what_scoring_it_gives(opened):
    model = opened("vllm").model
    prompts = [CHAT, Chat(CHAT.turns[:1])]
    done = model.complete(prompts, GREEDY, seeds=[0, 0])
    known = [(prompt, one) for prompt, one in zip(prompts, done, strict=True) if one.likelihood]
    assert known
    for prompt, one in known:
        (scored,) = model.score([(prompt, one.text)])
        assert scored.tokens == one.likelihood.tokens
        assert math.isclose(scored.total, one.likelihood.total, abs_tol=1e-9)
    assert all(one.likelihood is None for one in model.complete(prompts, DRAWN, seeds=[0, 0]))


def test_without_adapters_all_scoring_is_done_here(opened, servers, base):
    model = opened("llamacpp").model
    servers["llamacpp"].faults()
    pairs = [(CHAT, "It does not.")]
    assert model.score(pairs) == TransformersModel(base).score(pairs)
    assert servers["llamacpp"].asked == []


def test_tuned_weights_go_to_the_server_when_they_are_used(opened, servers, adapter):
    model = opened("vllm").model
    servers["vllm"].faults()
    tuned = model.with_adapter(adapter)
    assert isinstance(tuned, ServerModel)
    assert servers["vllm"].asked == []
    tuned.complete([CHAT], GREEDY, seeds=[0])
    tuned.score([(CHAT, "No.")])
    paths = [entry["path"] for entry in servers["vllm"].asked]
    assert paths == ["/v1/load_lora_adapter", "/v1/completions", "/v1/completions"]
    bodies = [entry["body"] for entry in servers["vllm"].asked]
    assert bodies[0] == {"lora_name": name_of(adapter), "lora_path": str(adapter)}
    assert {body["model"] for body in bodies[1:]} == {name_of(adapter)}
    assert tuned.with_adapter(adapter) is tuned
    assert tuned.with_adapter(None).dialect.model == "tiny"
    # a model opened anew finds it there already, and is content
    again = opened("vllm").model.with_adapter(adapter)
    assert again.score([(CHAT, "No.")]) == tuned.score([(CHAT, "No.")])


def test_the_name_of_an_adapter_is_that_of_its_content(adapter, base, tmp_path):
    write_blank(tmp_path / "same", base.folder, 4)
    write_blank(tmp_path / "other", base.folder, 5)
    assert name_of(adapter) == name_of(tmp_path / "same") != name_of(tmp_path / "other")


def test_a_server_that_forgot_an_adapter_is_given_it_again(opened, servers, adapter):
    tuned = opened("vllm").model.with_adapter(adapter)
    before = tuned.complete([CHAT] * 3, GREEDY, seeds=[0] * 3)
    servers["vllm"].post("/v1/unload_lora_adapter", {"lora_name": name_of(adapter)})
    assert tuned.complete([CHAT] * 3, GREEDY, seeds=[0] * 3) == before


def test_an_adapter_that_the_server_cannot_see_is_an_error_that_says_so(opened, tmp_path):
    (tmp_path / "gone").mkdir()
    tuned = opened("vllm").model.with_adapter(tmp_path / "gone")
    with pytest.raises(BackendError, match=r"and not .*gone \(status 404.*set server\.adapters=false"):
        tuned.complete([CHAT], GREEDY, seeds=[0])


def test_without_adapters_tuned_weights_are_used_here(opened, adapter):
    tuned = opened("llamacpp").model.with_adapter(adapter)
    assert isinstance(tuned, TransformersModel)
    assert tuned.adapter == adapter


def test_fully_tuned_weights_are_used_here(opened, base):
    model = opened("vllm").model
    assert isinstance(model.with_adapter(base.folder), TransformersModel)


def test_a_likelihood_of_this_machine_is_not_mixed_with_those_of_the_server(opened):
    model = opened("vllm").model
    model.line.served = replace(model.line.served, draws=False)
    (drawn,) = model.complete([CHAT], Sampling(5, 0.8), seeds=[1])
    assert drawn.likelihood is None


def test_it_counts_and_is_called_as_the_model_is(opened, base):
    model = opened("vllm").model
    assert model.name == "tiny"
    assert model.chat
    (told,) = model.distributions([(CHAT, "No.")], 3)
    assert told.tokens == TransformersModel(base).distributions([(CHAT, "No.")], 3)[0].tokens
    assert model.count(["Why?", ""]) == TransformersModel(base).count(["Why?", ""])
