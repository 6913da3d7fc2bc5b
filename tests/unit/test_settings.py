import dataclasses
import json
import math

import pytest
import torch

from utils.detox import detox_config
from utils.settings import FIELDS, PRESETS, Settings, load_settings, parse_overrides, small_world


@pytest.mark.parametrize("preset", ["offline", "cpu", "gpu"])
def test_a_preset_fills_in_every_field(preset):
    settings = load_settings(preset)
    assert settings.preset == preset
    assert {name: getattr(settings, name) for name in PRESETS[preset]} == PRESETS[preset]


def test_offline_preset_points_at_files_inside_the_package(offline_t5):
    settings = load_settings("offline")
    assert settings.model == offline_t5
    assert all("offline" in path for path in (settings.reward_model, settings.dataset))


@pytest.mark.parametrize(("preset", "size"), [("cpu", "small"), ("gpu", "base")])
def test_hub_presets_use_flan_t5_dialogsum_and_the_hate_speech_classifier(preset, size):
    settings = load_settings(preset)
    assert settings.model == f"google/flan-t5-{size}"
    assert settings.dataset == "knkarthick/dialogsum"
    assert settings.reward_model == "facebook/roberta-hate-speech-dynabench-r4-target"


def test_cpu_preset_scores_enough_dialogues_and_trains_on_enough():
    settings = load_settings("cpu")
    assert settings.test_dialogues >= 200 and settings.train_dialogues >= 600
    assert settings.max_prompt_tokens == 1024


def test_gpu_preset_scores_the_whole_test_split_and_trains_on_more_than_cpu():
    settings = load_settings("gpu")
    assert settings.test_dialogues is None and settings.validation_dialogues is None
    assert settings.train_dialogues > load_settings("cpu").train_dialogues


def test_learning_rates_of_ppo_add_up_to_five_hundredths_on_a_gpu():
    """The linear schedule halves the peak, and `detox_config` takes two steps for each batch."""
    settings = load_settings("gpu")
    config = detox_config(settings, torch.device("cpu"), "out")
    assert config.lr_scheduler_type == "linear"
    assert config.max_steps / 2 * config.learning_rate >= 0.05
    assert settings.ppo_steps in range(100, 201) and settings.ppo_batch_size == 32


@pytest.mark.parametrize(("cuda", "chosen"), [(True, "gpu"), (False, "offline")])
def test_auto_is_gpu_with_cuda_and_the_small_world_without(monkeypatch, cuda, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert load_settings().preset == chosen
    assert load_settings("auto").preset == chosen


def test_preset_comes_from_the_environment_unless_given(monkeypatch):
    monkeypatch.setenv("LABS_PRESET", "offline")
    assert load_settings().preset == "offline"
    assert load_settings("gpu").preset == "gpu"


def test_environment_beats_preset_and_keyword_beats_environment(monkeypatch):
    assert load_settings("cpu").batch_size == 8
    monkeypatch.setenv("LABS_BATCH_SIZE", "7")
    assert load_settings("cpu").batch_size == 7
    assert load_settings("cpu", batch_size=5).batch_size == 5


def test_variables_are_read_as_the_type_of_their_field(monkeypatch):
    monkeypatch.setenv("LABS_MODEL", "some/model")
    monkeypatch.setenv("LABS_FULL_LEARNING_RATE", "3e-5")
    monkeypatch.setenv("LABS_SEED", "0")
    settings = load_settings("cpu")
    assert (settings.model, settings.full_learning_rate, settings.seed) == ("some/model", 3e-5, 0)


@pytest.mark.parametrize("text", ["all", "None", "ALL"])
def test_number_of_dialogues_may_be_all_of_them(monkeypatch, text):
    monkeypatch.setenv("LABS_TRAIN_DIALOGUES", text)
    assert load_settings("cpu").train_dialogues is None


def test_only_numbers_of_dialogues_may_be_all(monkeypatch):
    monkeypatch.setenv("LABS_BATCH_SIZE", "all")
    with pytest.raises(ValueError, match="variable LABS_BATCH_SIZE: batch_size='all'"):
        load_settings("cpu")


def test_variables_of_other_programs_are_left_alone(monkeypatch):
    monkeypatch.setenv("OTHERLABS_BATCH_SIZE", "7")
    monkeypatch.setenv("BATCH_SIZE", "7")
    assert load_settings("cpu") == Settings(preset="cpu", **PRESETS["cpu"])


@pytest.mark.parametrize("from_environment", [True, False])
def test_unknown_preset_is_named_with_the_choices(monkeypatch, from_environment):
    monkeypatch.setenv("LABS_PRESET", "tpu" if from_environment else "cpu")
    with pytest.raises(ValueError, match=r"'tpu'.*auto.*offline.*cpu.*gpu"):
        load_settings(None if from_environment else "tpu")


def test_unknown_setting_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"unknown setting 'batchsize': did you mean batch_size\?"):
        load_settings("cpu", batchsize=4)


def test_unknown_setting_without_a_near_one_is_refused_with_all_of_them():
    with pytest.raises(ValueError, match=r"unknown setting 'qqq': choose from model, .*few_shot"):
        load_settings("cpu", qqq=4)


def test_unknown_variable_is_refused_with_the_nearest_setting(monkeypatch):
    monkeypatch.setenv("LABS_BATCHSIZE", "4")
    with pytest.raises(ValueError, match=r"variable LABS_BATCHSIZE: .*did you mean batch_size\?"):
        load_settings("cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", True),
        ("batch_size", "16"),
        ("batch_size", 1.5),
        ("batch_size", None),
        ("train_dialogues", 0),
        ("train_dialogues", "many"),
        ("full_learning_rate", math.nan),
        ("lora_learning_rate", math.inf),
        ("ppo_learning_rate", -1e-4),
        ("full_learning_rate", 0.0),
        ("full_learning_rate", "1e-4"),
        ("lora_epochs", False),
        ("kl_coef", -0.1),
        ("kl_coef", math.nan),
        ("few_shot", 0),
        ("seed", -1),
        ("max_new_tokens", 0),
        ("model", 3),
        ("model", ""),
        ("output_dir", ""),
        ("precision", "fp16"),
        ("cpu_speedups", 1),
        ("cpu_speedups", "off"),
    ],
)
def test_impossible_value_is_refused_and_named(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value!r}"):
        load_settings("cpu", **{name: value})


@pytest.mark.parametrize("name", ["full_epochs", "full_learning_rate"])
def test_epochs_and_learning_rates_may_be_below_one_but_not_zero(name):
    assert getattr(load_settings("cpu", **{name: 0.5}), name) == 0.5
    with pytest.raises(ValueError, match="positive"):
        load_settings("cpu", **{name: 0})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LABS_BATCH_SIZE", "0"),
        ("LABS_BATCH_SIZE", "1.5"),
        ("LABS_KL_COEF", "nan"),
        ("LABS_FULL_EPOCHS", "two"),
    ],
)
def test_impossible_variable_is_refused(monkeypatch, variable, text):
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=rf"(?i){variable.removeprefix('LABS_')}='?{text}"):
        load_settings("cpu")


@pytest.mark.parametrize(
    ("name", "value"), [("few_shot", 1), ("seed", 0), ("kl_coef", 0.0), ("full_epochs", 2)]
)
def test_zero_and_whole_numbers_are_accepted_where_they_make_sense(name, value):
    assert getattr(load_settings("cpu", **{name: value}), name) == value


def test_fp16_is_refused_because_it_overflows_in_t5():
    with pytest.raises(ValueError, match=r"'fp16'.*auto.*fp32.*bf16"):
        load_settings("cpu", precision="fp16")


def test_settings_cannot_be_changed_after_loading():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_settings("cpu").seed = 1


def test_table_shows_value_and_meaning_of_every_field():
    table = load_settings("cpu", seed=123).table()
    assert list(table.index) == [field.name for field in dataclasses.fields(Settings)]
    assert list(table.columns) == ["value", "meaning"]
    assert table.loc["seed", "value"] == "123"
    assert table["meaning"].str.len().min() > 5


def test_table_shows_folders_of_the_project_from_its_root():
    assert (
        load_settings("offline").table().loc["model", "value"].replace("\\", "/")
        == "utils/offline/t5"
    )
    assert (
        load_settings("cpu", model="/elsewhere/t5").table().loc["model", "value"] == "/elsewhere/t5"
    )


def test_the_embedded_default_may_differ_in_seed_output_folder_and_resume_only():
    assert load_settings("offline", seed=7, output_dir="elsewhere", resume=True).is_embedded_default
    assert not load_settings("offline", batch_size=1).is_embedded_default
    assert not load_settings("cpu").is_embedded_default


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("train_dialogues=500", 500),
        ("test_dialogues=all", None),
        ("kl_coef=0.1", 0.1),
        ("model=a=b", "a=b"),
        ("full_learning_rate=default", None),
        ("cpu_speedups=off", False),
        ("cpu_speedups=True", True),
    ],
)
def test_an_override_is_read_as_its_setting_needs(pair, value):
    assert parse_overrides([pair]) == {pair.partition("=")[0]: value}


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("float", "1e-2", 0.01),
        ("int | None", "none", None),
        ("bool | None", "false", False),
        ("dict | str | None", '{"num_cycles": 2}', {"num_cycles": 2}),
        ("list[str] | None", '["a", "b"]', ["a", "b"]),
        ("None | str | list[str]", "all", "all"),
        ("SchedulerType | str", "constant", "constant"),
    ],
)
def test_a_training_argument_is_read_by_its_annotation(annotation, text, value):
    assert parse_overrides([f"argument={text}"], {"argument": annotation}) == {"argument": value}


def test_a_setting_wins_over_a_training_argument_of_the_same_name():
    with pytest.raises(ValueError, match="whole number"):
        parse_overrides(["seed=a"], {"seed": "str"})


def test_a_misspelled_training_argument_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"'weigt_decay': did you mean weight_decay\?"):
        parse_overrides(["weigt_decay=0.1"], {"weight_decay": "float"})


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_fine_tuning_on_flan_t5_has_the_rates_and_epochs_that_suit_it(preset):
    settings = load_settings(preset)
    assert (settings.full_learning_rate, settings.lora_learning_rate) == (3e-4, 1e-3)
    assert 2 <= settings.full_epochs <= 3 and 2 <= settings.lora_epochs <= 3


FOLDERS = {"model", "reward_model", "second_judge", "dataset"}


def test_every_setting_that_is_shown_can_be_read_back():
    for preset in PRESETS:
        settings = load_settings(preset)
        for name in set(FIELDS) - FOLDERS:  # shown from the project
            read = parse_overrides([f"{name}={settings.shown(name)}"])
            assert read == {name: getattr(settings, name)}


def test_spaces_around_the_second_judges_labels_are_removed():
    settings = load_settings("offline", second_judge_labels=" toxic, neutral ")
    assert settings.second_judge_labels == "toxic,neutral"


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("train_dialogues", "'train_dialogues': write NAME=VALUE"),
        ("epochs=3", r"unknown setting 'epochs': did you mean \w+_epochs"),
        ("preset=gpu", "unknown setting 'preset'"),
        ("seed=one", "seed='one' cannot be read: give a whole number"),
        ("cpu_speedups=maybe", "cpu_speedups='maybe' cannot be read: give on or off"),
    ],
)
def test_an_override_that_cannot_be_read_is_refused(pair, message):
    with pytest.raises(ValueError, match=message):
        parse_overrides([pair])


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (None, "the small world's T5"),
        ("google/flan-t5-base", "flan-t5-base"),
        ("folder/my-t5/", "my-t5"),
    ],
)
def test_figures_call_the_model_by_its_name(model, name):
    assert load_settings("offline", **({"model": model} if model else {})).model_name == name


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_second_judge_that_is_not_its_reward_model(preset, monkeypatch):
    settings = load_settings(preset)
    assert settings.second_judge and settings.second_judge != settings.reward_model
    monkeypatch.setenv("LABS_SECOND_JUDGE", "some/classifier")
    assert load_settings(preset).second_judge == "some/classifier"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("test_dialogues", 1, "test_dialogues=1 must be at least 2"),
        ("judged_dialogues", 1, "judged_dialogues=1 must be at least 2"),
        ("ppo_generations", 1, "ppo_generations=1 must be at least 2"),
        ("seed", 2**32, r"seed=4294967296 must be below 4294967296"),
        ("second_judge_labels", "toxic", "second_judge_labels='toxic' must be 2 names"),
        ("second_judge_labels", "toxic,", "must be 2 names"),
        ("second_judge_labels", "toxic,,neutral", "must be 2 names"),
    ],
)
def test_a_value_that_would_stop_a_lab_late_is_refused_at_the_start(name, value, message):
    with pytest.raises(ValueError, match=message):
        load_settings("offline", **{name: value})


def test_an_adapter_must_exist_and_belong_to_the_model(tmp_path):
    settings = load_settings("offline")
    with pytest.raises(ValueError, match="holds no adapter: run Lab 2 first"):
        settings.check_adapter(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "another/model"}', encoding="utf-8")
    with pytest.raises(ValueError, match="belongs to 'another/model', not to"):
        settings.check_adapter(tmp_path)
    load_settings("offline", model="another/model").check_adapter(tmp_path)


def test_an_adapter_whose_models_folder_was_moved_is_used_with_a_warning(tmp_path, caplog):
    old, new = tmp_path / "old", tmp_path / "new"
    config = json.dumps({"base_model_name_or_path": str(old)})
    (tmp_path / "adapter_config.json").write_text(config, encoding="utf-8")
    new.mkdir()
    load_settings("offline", model=str(new)).check_adapter(tmp_path)
    assert f"{old}, which is gone: assuming that {new} is a copy" in caplog.text
    old.mkdir()  # not moved after all
    with pytest.raises(ValueError, match="belongs to"):
        load_settings("offline", model=str(new)).check_adapter(tmp_path)
    with pytest.raises(ValueError, match="belongs to"):
        load_settings("offline", model="hub/id").check_adapter(tmp_path)


def test_every_preset_has_a_folder_of_its_own_for_results():
    folders = [load_settings(preset).output_dir for preset in PRESETS]
    assert folders == ["out", "out/cpu", "out/gpu"]


def test_small_world_keeps_its_own_settings_and_takes_the_place_of_another_models(monkeypatch):
    own = load_settings("offline", ppo_steps=3)
    assert small_world(own) is own
    monkeypatch.setenv("LABS_MODEL", "google/flan-t5-large")
    monkeypatch.setenv("LABS_PRECISION", "auto")
    monkeypatch.setenv("LABS_SECOND_JUDGE_LABELS", "LABEL_1,LABEL_0")
    monkeypatch.setenv("LABS_PPO_STEPS", "5")
    small = small_world(load_settings("cpu", seed=7))
    assert (small.preset, small.seed, small.ppo_steps) == ("offline", 7, 5)
    names = ("model", "reward_model", "second_judge", "dataset", "precision")
    assert {name: getattr(small, name) for name in names}.items() <= PRESETS["offline"].items()
    assert small.second_judge_labels == "toxic,neutral"
