from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, WhisperForConditionalGeneration

from blsp.errors import CheckpointError
from blsp.models.convert.ctranslate2 import read_model, whisper_state_dict
from blsp.models.convert.gguf import convert_gguf
from blsp.models.convert.whisper_layout import write_whisper_folder

DTYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def pack_model(tensors: dict[str, np.ndarray], *, kind: str = "WhisperSpec", version: int = 6) -> bytes:
    """CTranslate2's `model.bin`, written down from its description."""

    def text(value: str) -> bytes:
        data = value.encode() + b"\0"
        return struct.pack("<H", len(data)) + data

    out = [struct.pack("<I", version), text(kind), struct.pack("<II", 3, len(tensors))]
    for name, tensor in tensors.items():
        out += [text(name), struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)]
        out += [struct.pack("<BI", DTYPES[str(tensor.dtype)], tensor.nbytes), tensor.tobytes()]
    return b"".join([*out, struct.pack("<I", 1), text("decoder/projection/weight"), text("decoder/embeddings/weight")])


def as_ctranslate2(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """A Whisper's tensors under CTranslate2's names, with q, k, v stacked."""
    state = {name.removeprefix("model."): tensor.numpy() for name, tensor in model.state_dict().items()}
    out: dict[str, np.ndarray] = {"decoder/embeddings/weight": state["decoder.embed_tokens.weight"]}

    def norm(theirs: str, ours: str) -> None:
        out[f"{theirs}/gamma"], out[f"{theirs}/beta"] = state[f"{ours}.weight"], state[f"{ours}.bias"]

    def stack(theirs: str, ours: str, letters: list[str]) -> None:
        weights = [state[f"{ours}.{letter}_proj.weight"] for letter in letters]
        biases = [state.get(f"{ours}.{letter}_proj.bias", np.zeros(len(weights[0]), np.float32)) for letter in letters]
        out[f"{theirs}/weight"], out[f"{theirs}/bias"] = np.concatenate(weights), np.concatenate(biases)

    for i in (1, 2):
        out |= {f"encoder/conv{i}/{part}": state[f"encoder.conv{i}.{part}"] for part in ("weight", "bias")}
    for side in ("encoder", "decoder"):
        out[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for i in range(model.config.encoder_layers):
            theirs, ours = f"{side}/layer_{i}", f"{side}.layers.{i}"
            stack(f"{theirs}/self_attention/linear_0", f"{ours}.self_attn", ["q", "k", "v"])
            stack(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn", ["out"])
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            if side == "decoder":
                stack(f"{theirs}/attention/linear_0", f"{ours}.encoder_attn", ["q"])
                stack(f"{theirs}/attention/linear_1", f"{ours}.encoder_attn", ["k", "v"])
                stack(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn", ["out"])
                norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
            for j in (0, 1):
                for part in ("weight", "bias"):
                    out[f"{theirs}/ffn/linear_{j}/{part}"] = state[f"{ours}.fc{j + 1}.{part}"]
    return out


SPECIAL = "<|endoftext|> <|startoftranscript|> <|en|> <|de|> <|translate|> <|transcribe|> <|startoflm|>".split()
SPECIAL += "<|startofprev|> <|nocaptions|> <|notimestamps|>".split()


@pytest.fixture(scope="module")
def whisper_tokenizer_json() -> bytes:
    """A byte-level tokenizer with Whisper's special tokens, but no timestamps: what CTranslate2 ships."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer.to_str().encode()


GENERATION: dict[str, Any] = {
    "lang_ids": [258, 259],
    "suppress_ids": [1, 2],
    "suppress_ids_begin": [3, 256],
    "alignment_heads": [[0, 1]],
}


@pytest.fixture
def whisper_folder(
    tmp_path: Path, tiny_whisper: WhisperForConditionalGeneration, whisper_tokenizer_json: bytes
) -> Path:
    write_whisper_folder(tmp_path, pack_model(as_ctranslate2(tiny_whisper)), whisper_tokenizer_json, GENERATION)
    return tmp_path


def test_every_tensor_survives(tiny_whisper: WhisperForConditionalGeneration) -> None:
    kind, tensors = read_model(pack_model(as_ctranslate2(tiny_whisper)))
    assert kind == "WhisperSpec"
    assert tensors["decoder/projection/weight"] is tensors["decoder/embeddings/weight"]
    state = whisper_state_dict(tensors)
    expected = {name: tensor for name, tensor in tiny_whisper.state_dict().items() if name != "proj_out.weight"}
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(state[name], tensor.numpy(), err_msg=name)


def test_transformers_reads_the_folder(
    whisper_folder: Path, tiny_whisper: WhisperForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blsp.models.convert.whisper_layout.HEAD_DIM", 8)
    model = WhisperForConditionalGeneration.from_pretrained(whisper_folder, local_files_only=True, use_safetensors=True)
    assert (model.config.encoder_layers, model.config.decoder_layers) == (2, 2)
    for name, tensor in tiny_whisper.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_the_tokenizer_knows_languages_tasks_and_times(whisper_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(whisper_folder, local_files_only=True)
    assert type(tokenizer).__name__ == "WhisperTokenizer"
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|notimestamps|>"]) == [256, 265]
    assert tokenizer.convert_tokens_to_ids(["<|0.00|>", "<|0.02|>", "<|30.00|>"]) == [266, 267, 266 + 1500]
    ids = [257, 258, 261, 265, *tokenizer("Grüße", add_special_tokens=False).input_ids, 256]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Grüße"
    timed = [266 + 50, *tokenizer("ja", add_special_tokens=False).input_ids, 266 + 100]
    assert tokenizer.decode(timed, decode_with_timestamps=True) == "<|1.00|>ja<|2.00|>"


def test_generation_settings_come_from_the_files(whisper_folder: Path) -> None:
    from transformers import GenerationConfig

    config = GenerationConfig.from_pretrained(whisper_folder, local_files_only=True)
    assert config.lang_to_id == {"<|en|>": 258, "<|de|>": 259}
    assert config.task_to_id == {"transcribe": 261, "translate": 260}
    assert (config.decoder_start_token_id, config.eos_token_id, config.no_timestamps_token_id) == (257, 256, 265)
    assert (config.suppress_tokens, config.begin_suppress_tokens) == ([1, 2], [3, 256])


def test_half_precision_stays(tmp_path: Path, tiny_whisper: Any, whisper_tokenizer_json: bytes) -> None:
    half = {name: tensor.astype(np.float16) for name, tensor in as_ctranslate2(tiny_whisper).items()}
    write_whisper_folder(tmp_path, pack_model(half), whisper_tokenizer_json, GENERATION)
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path, local_files_only=True, dtype="auto")
    assert model.dtype == torch.float16
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * sum(tensor.size for tensor in half.values())


@pytest.mark.parametrize("keep", [0, 3, 10, 40, -1])
def test_a_file_that_breaks_off(tiny_whisper: WhisperForConditionalGeneration, keep: int) -> None:
    with pytest.raises(CheckpointError, match=r"model\.bin breaks off or is damaged at byte \d+"):
        read_model(pack_model(as_ctranslate2(tiny_whisper))[:keep])


def test_other_files_are_refused(tmp_path: Path, whisper_tokenizer_json: bytes) -> None:
    weights = {"decoder/embeddings/weight": np.zeros((1, 1), np.float32)}
    with pytest.raises(CheckpointError) as caught:
        read_model(pack_model(weights, version=5))
    assert str(caught.value) == "CTranslate2's model.bin must be of version 6, but is 5."
    with pytest.raises(CheckpointError) as caught:
        write_whisper_folder(tmp_path, pack_model(weights, kind="TransformerSpec"), whisper_tokenizer_json, GENERATION)
    assert str(caught.value) == "CTranslate2's model must be a WhisperSpec, but is a TransformerSpec."
    with pytest.raises(CheckpointError) as caught:
        whisper_state_dict(read_model(pack_model(weights))[1])
    assert str(caught.value) == "CTranslate2's Whisper model lacks the tensor 'encoder/conv1/weight'."


def _write_gguf(path: Path, llm: Any, tokenizer: Any, architecture: str = "llama", quantized: str = "F32") -> None:
    """An LLM and its byte-level tokenizer as llama.cpp's converter writes them."""
    import gguf

    config = llm.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
    import json

    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    parts |= {"self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "mlp.gate_proj": "ffn_gate"}
    parts |= {"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm"}
    for i in range(config.num_hidden_layers):
        names |= {f"model.layers.{i}.{ours}": f"blk.{i}.{theirs}" for ours, theirs in parts.items()}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in llm.state_dict().items():
        array = tensor.numpy()
        stem, _, suffix = name.rpartition(".")
        if architecture == "qwen2" and stem == "lm_head":
            array = array.astype(np.float16)
        if (
            architecture == "llama" and (part := stem.rpartition(".")[2]) in heads
        ):  # llama.cpp interleaves the halves of rotary pairs
            array = array.reshape(heads[part], 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        kind = gguf.GGMLQuantizationType[quantized if array.ndim == 2 and stem != "lm_head" else "F32"]
        if kind.name != "F32":
            array = gguf.quantize(np.ascontiguousarray(array), kind)
        raw = None if kind.name == "F32" else kind
        writer.add_tensor(f"{names[stem]}.{suffix}", np.ascontiguousarray(array), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:gguf")
def test_gguf_becomes_an_ordinary_folder(
    tmp_path: Path, tiny_llm: LlamaForCausalLM, tiny_tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    _write_gguf(tmp_path / "model.gguf", tiny_llm, tiny_tokenizer)
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(tmp_path / "model.gguf", folder)
    assert capfd.readouterr() == ("", "")  # no bars, no warnings
    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert not hasattr(model.config, "quantization_config")
    ids = torch.tensor([[5, 9, 200, 17]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, tiny_llm(ids).logits, rtol=0, atol=1e-5)
    text = "<|im_start|>user\nGrüße?<|im_end|>"
    assert tokenizer(text).input_ids == tiny_tokenizer(text).input_ids
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    assert (tokenizer.eos_token, tokenizer.model_max_length) == ("<|im_end|>", 1024)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:gguf")
def test_qwen2_has_biases_and_one_of_two_copies_of_its_embeddings(tmp_path: Path, tiny_tokenizer: Any) -> None:
    import gguf
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(vocab_size=len(tiny_tokenizer), **shape, num_key_value_heads=2, tie_word_embeddings=True)
    llm = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in llm.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    _write_gguf(tmp_path / "model.gguf", llm, tiny_tokenizer, "qwen2")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert {"token_embd.weight", "output.weight"} <= {tensor.name for tensor in reader.tensors}
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(tmp_path / "model.gguf", folder)
    model = Qwen2ForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.tensor([[5, 9, 200, 17]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, llm(ids).logits, rtol=0, atol=0.02)  # a copy is in half precision


@pytest.mark.filterwarnings("ignore::DeprecationWarning:gguf")
def test_large_models_are_written_in_several_files(
    tmp_path: Path, tiny_llm: LlamaForCausalLM, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blsp.models.convert.gguf._SHARD_BYTES", 4_000)
    _write_gguf(tmp_path / "model.gguf", tiny_llm, tiny_tokenizer)
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(tmp_path / "model.gguf", folder, dtype="bfloat16")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype="auto")
    assert model.dtype == torch.bfloat16
    for name, tensor in tiny_llm.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name].float(), tensor, rtol=0.01, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:gguf")
def test_other_architectures_and_other_files_are_refused(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="must hold a model of type llama or qwen2, but holds 'mamba'"):
        convert_gguf(tmp_path / "other.gguf", tmp_path)
    (tmp_path / "text.gguf").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(CheckpointError, match="is not a GGUF file that can be read"):
        convert_gguf(tmp_path / "text.gguf", tmp_path)


def _wide_llm(architecture: str, tokenizer: Any, *, tied: bool) -> Any:
    """A random LLM of which 4 bits take every matrix."""
    from transformers import LlamaConfig, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "vocab_size": 320, "tie_word_embeddings": tied}
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
    config, kind = kinds[architecture]
    llm = kind(config(**shape, **tokens)).eval()  # type: ignore[operator]
    with torch.no_grad():
        for name, parameter in llm.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
            elif parameter.dim() == 2:
                parameter.mul_(4)  # wide enough that positions matter
    return llm


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:gguf")
@pytest.mark.parametrize(("architecture", "tied"), [("llama", False), ("qwen2", True), ("llama", True)])
def test_a_packed_folder_is_the_file_for_use_and_for_training(
    tmp_path: Path, tiny_tokenizer: Any, architecture: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blsp.modeling.packed.linear import PackedEmbedding, PackedLinear
    from blsp.modeling.packed.llm import load_dense, load_packed, token_table
    from blsp.modeling.packed.matrices import is_packed, read_matrices
    from blsp.models.convert.packed import convert_gguf_packed

    monkeypatch.setattr("blsp.models.convert.packed._VALUES_AT_ONCE", 64 * 64)  # several parts
    llm = _wide_llm(architecture, tiny_tokenizer, tied=tied)
    _write_gguf(tmp_path / "m.gguf", llm, tiny_tokenizer, architecture, "Q4_1")
    plain, folder = tmp_path / "plain", tmp_path / "packed"
    for made in (plain, folder):
        made.mkdir()
    convert_gguf(tmp_path / "m.gguf", plain)
    convert_gguf_packed(tmp_path / "m.gguf", folder)
    assert is_packed(folder)
    assert not is_packed(plain)
    ids = torch.tensor([[5, 9, 200, 17, 3, 80, 41]])
    expected = type(llm).from_pretrained(plain, local_files_only=True)
    assert expected.config.tie_word_embeddings == tied
    dense, packed = load_dense(folder, torch.float32), load_packed(read_matrices(folder))
    state = dense.state_dict()
    for name, tensor in expected.state_dict().items():
        assert float((state[name] - tensor).norm() / tensor.norm()) < 0.01, name
    assert (dense.lm_head.weight is dense.model.embed_tokens.weight) == tied  # type: ignore[union-attr]
    assert isinstance(token_table(packed), PackedEmbedding)
    linears = {name: module for name, module in packed.named_modules() if isinstance(module, PackedLinear)}
    assert len(linears) == 15
    assert all(linear.bits == 4 for linear in linears.values())
    assert linears["lm_head"].n_exact
    with torch.no_grad():
        logits = expected(ids).logits
        for model in (dense, packed):
            assert float((model(ids).logits - logits).norm() / logits.norm()) < 0.03
            row, exact = model(ids[:, :1]).logits[0, 0], expected(ids[:, :1]).logits[0, 0]
            best = exact.topk(16).indices
            assert float((row - exact)[best].norm() / exact[best].norm()) < 0.05
    assert not any(parameter.requires_grad for model in (dense, packed) for parameter in model.parameters())
    assert packed.generation_config.eos_token_id == tiny_tokenizer.eos_token_id  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:gguf")
def test_a_packed_folder_works_on_another_cpu(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blsp.modeling.packed import matrices
    from blsp.modeling.packed.layout import LAYOUTS, this_cpu_layout
    from blsp.modeling.packed.llm import load_dense, load_packed
    from blsp.modeling.packed.matrices import read_matrices
    from blsp.models.convert.packed import convert_gguf_packed
    from blsp.storage import read_json

    _write_gguf(tmp_path / "m.gguf", _wide_llm("qwen2", tiny_tokenizer, tied=True), tiny_tokenizer, "qwen2", "Q4_1")
    folders = {}
    for layout in LAYOUTS:
        folders[layout] = tmp_path / layout
        folders[layout].mkdir()
        monkeypatch.setattr("blsp.models.convert.packed.this_cpu_layout", lambda layout=layout: layout)
        convert_gguf_packed(tmp_path / "m.gguf", folders[layout])
        assert read_json(folders[layout] / "packed.json")["layout"] == layout
    own = this_cpu_layout()
    assert own is not None
    row, rows = torch.tensor([[7]]), torch.tensor([[7, 9, 11, 200, 5, 6]])
    with torch.no_grad():
        expected = load_packed(read_matrices(folders[own]))
        dense = load_dense(folders[own], torch.float32).state_dict()
        for folder in folders.values():
            found = load_packed(read_matrices(folder))
            assert torch.equal(found(row).logits, expected(row).logits)
            assert all(torch.equal(load_dense(folder, torch.float32).state_dict()[n], t) for n, t in dense.items())
        monkeypatch.setattr(matrices, "this_cpu_layout", lambda: None)  # a torch without the product for 4 bits
        without = load_packed(read_matrices(folders[own]))
        logits = expected(rows).logits
        assert float((without(rows).logits - logits).norm() / logits.norm()) < 1e-6
        assert without.lm_head.bits == 8  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:gguf")
def test_a_packed_folder_that_cannot_be_used(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from safetensors.torch import load_file, save_file

    from blsp.modeling.packed.llm import load_dense, load_packed
    from blsp.modeling.packed.matrices import read_matrices
    from blsp.models.convert.packed import convert_gguf_packed

    _write_gguf(tmp_path / "m.gguf", _wide_llm("llama", tiny_tokenizer, tied=True), tiny_tokenizer, "llama", "Q4_1")
    folder = tmp_path / "packed"
    folder.mkdir()
    convert_gguf_packed(tmp_path / "m.gguf", folder)
    weights = load_file(folder / "model.safetensors")
    for name in ("model.norm.weight", "model.layers.1.mlp.up_proj.scales", "model.layers.0.mlp.down_proj.groups"):
        save_file({key: tensor for key, tensor in weights.items() if key != name}, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"lacks the tensor '{name}'"):
            load_packed(read_matrices(folder))
    save_file({**weights, "model.norm.weight": torch.ones(3)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"must have the shape \[64\], but has \[3\]"):
        load_dense(folder, torch.bfloat16)
    for text in ('{"format_version": 9, "layout": "halves64"}', '{"format_version": 1, "layout": "x"}'):
        (folder / "packed.json").write_text(text)
        with pytest.raises(CheckpointError, match="must have the format version 1 and a layout of"):
            load_packed(read_matrices(folder))
    (folder / "packed.json").write_text("{")
    with pytest.raises(CheckpointError, match="Cannot read"):
        load_packed(read_matrices(folder))


@pytest.mark.parametrize(("kind", "n_bytes", "columns"), [("Q4_K", 144, 256), ("Q4_1", 20, 32)])
def test_the_groups_of_a_file_are_its_weights_exactly(kind: str, n_bytes: int, columns: int) -> None:
    """Random blocks, as gguf itself dequantises them."""
    import gguf

    from blsp.models.convert.packed import gguf_groups

    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (16, 2, n_bytes), dtype=np.uint8)
    blocks[:, :, :4] = random.normal(0, 0.1, (16, 2, 2)).astype(np.float16).view(np.uint8)  # scale and offset
    tensor_type = gguf.GGMLQuantizationType[kind]
    tensor = SimpleNamespace(data=blocks.reshape(16, -1), tensor_type=tensor_type, shape=[2 * columns, 16])
    found = gguf_groups(tensor)  # type: ignore[arg-type]
    assert found is not None
    levels, groups = found
    scales, offsets = (part.repeat_interleave(32, dim=1) for part in groups.unbind(2))
    expected = gguf.dequantize(tensor.data, tensor_type)
    np.testing.assert_allclose((levels * scales + offsets).numpy(), expected, rtol=1e-5, atol=1e-6)
    part = gguf_groups(tensor, slice(4, 8))  # type: ignore[arg-type]
    assert part is not None
    assert torch.equal(part[0], levels[4:8])
    other = SimpleNamespace(data=tensor.data, tensor_type=tensor_type, shape=[2 * columns, 15])
    assert gguf_groups(other) is None  # type: ignore[arg-type]


def test_weights_stand_where_kernels_read_them(tmp_path: Path) -> None:
    from safetensors import safe_open

    from blsp.models.convert.gguf import write_shards

    kinds = [torch.int8, torch.uint8, torch.bfloat16, torch.float32]
    tensors = {f"a{'b' * i}.{kind}": torch.ones(4, 16 * (1 + i)).to(kind) for i, kind in enumerate(2 * kinds)}
    tensors["odd"] = torch.arange(3, dtype=torch.int8)
    write_shards(tmp_path, iter(tensors.items()))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        for name, tensor in tensors.items():
            found = file.get_tensor(name)
            assert torch.equal(found, tensor)
            assert name == "odd" or found.data_ptr() % 64 == 0
