"""Runs of a folder as a table, and their results as one dataset that is read when it is used."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import patchlib
from patchlib.errors import RunError
from tests.runs.runs_folder import STEM, add_run, sweep_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("grid")
    for seed in range(3):
        add_run(out, f"seed={seed}", parameters={"seed": seed})
    add_run(
        out, "seed=3", "failed", parameters={"seed": 3}, error="ValueError: no <b>", results={"output": xr.Dataset()}
    )
    add_run(out, "seed=4", "waiting", parameters={"seed": 4})
    return out


def test_each_run_is_a_chunk_that_is_computed_by_itself(folder):
    effects = patchlib.collect(folder).dataset(STEM, "output").effect
    assert effects.chunks is not None and effects.chunks[0] == (1, 1, 1)
    expected = sum(sweep_result(seed).effect for seed in range(3)) / 3
    np.testing.assert_allclose(effects.mean("run").compute(), expected, rtol=1e-6)


def test_every_run_is_listed_those_that_failed_too(folder):
    runs = patchlib.collect(folder).runs
    assert list(runs.index) == [f"{STEM},seed={seed}" for seed in range(5)]
    assert list(runs.status) == ["ok", "ok", "ok", "failed", "waiting"]
    assert list(runs.seed) == list(range(5)) and set(runs.n_prompts) == {4}
    assert runs.error.iloc[3] == "ValueError: no <b>" and runs.error.notna().sum() == 1
    assert list(runs.wall_time_s) == [10, 11, 12, 13, 14]
    assert list(runs.peak_memory_mb[:3]) == [1200, 1201, 1202]
    assert list(runs.models[:3]) == ["tiny"] * 3 and "out_dir" not in runs
    assert list(runs)[:2] == ["notebook", "status"]


def test_a_result_of_all_finished_runs_is_one_dataset_with_the_parameters(folder):
    effects = patchlib.collect(folder).dataset(STEM, "output")
    assert effects.effect.dims == ("run", "metric", "layer", "head")
    assert list(effects.seed.values) == [0, 1, 2] and effects.seed.dims == ("run",)
    for seed in range(3):
        alone = effects.isel(run=seed)
        expected = sweep_result(seed)
        for name in ("patched", "effect", "clean", "clean_prompt"):
            np.testing.assert_array_equal(alone[name], expected[name])
    assert effects.layer_label.dims == ("layer",) and effects.clean_prompt.dims == ("run", "example")
    assert effects.effect.dtype == "float32"
    assert effects.attrs == {"model": "tiny", "weights_hash": "hash of tiny", "site": "z"}
    by_seed = effects.swap_dims(run="seed")
    assert float(by_seed.effect.sel(seed=2, layer=1, head=0)[0]) == pytest.approx(0.82)


def test_it_can_be_saved_and_spread_over_a_grid(folder, tmp_path):
    effects = patchlib.collect(folder).dataset(STEM, "output")
    effects.to_netcdf(tmp_path / "all.nc", engine="h5netcdf")
    xr.testing.assert_equal(xr.load_dataset(tmp_path / "all.nc").effect, effects.effect)
    grid = effects[["effect"]].set_index(run=["seed", "model_name"]).unstack("run")
    assert dict(grid.sizes) | {"seed": 3, "model_name": 1} == dict(grid.sizes)


def test_nothing_is_read_before_it_is_used_and_then_only_those_files(folder):
    effects = patchlib.collect(folder).dataset(STEM, "output")
    place = folder / "runs" / f"{STEM},seed=2"
    repr(effects)
    hidden = place.rename(folder / "hidden")
    try:
        assert effects.effect.isel(run=[0, 1], layer=slice(1, None), head=[1]).load().shape == (2, 1, 2, 1)
    finally:
        hidden.rename(place)
    assert float(effects.effect.isel(run=2).max()) == pytest.approx(0.82)


@pytest.mark.parametrize(
    "key",
    [
        {"run": 1, "layer": 2},
        {"run": slice(None, None, 2), "head": [1, 0]},
        {"run": [2, 0], "layer": [0, 2], "metric": 0},
        {"run": -1, "example": slice(3, 0, -1)},
        {"run": []},
        {"run": xr.DataArray([0, 2], dims="p"), "layer": xr.DataArray([1, 0], dims="p")},
    ],
)
def test_any_selection_is_what_it_would_be_in_memory(folder, key):
    lazy_one = patchlib.collect(folder).dataset(STEM, "output").patched
    loaded = patchlib.collect(folder).dataset(STEM, "output").patched.load()
    xr.testing.assert_identical(lazy_one.isel(key).load(), loaded.isel(key))


def test_models_of_other_sizes_are_joined_with_nan_or_taken_alone(tmp_path):
    big = sweep_result(1, "big", layers=4, heads=3, n=6).assign(only_big=("layer", [1, 2, 3, 4]))
    add_run(tmp_path, "model_name=tiny", parameters={"seed": 1})
    add_run(tmp_path, "model_name=big", parameters={"model_name": "big", "seed": 1}, results={"output": big})
    found = patchlib.collect(tmp_path)
    both = found.dataset(STEM, "output")
    assert dict(both.sizes) == {"run": 2, "metric": 1, "layer": 4, "head": 3, "example": 6}
    assert list(both.model_name.values) == ["big", "tiny"] and "model" not in both.attrs
    small = both.effect.isel(run=1)
    assert small.isnull().sum() == 4 * 3 - 3 * 2
    np.testing.assert_array_equal(small[:, :3, :2], sweep_result(1).effect)
    assert pd.isna(both.clean_prompt.values[1, 4]) and both.clean_prompt.values[0, 5] == "prompt 1.5"
    np.testing.assert_array_equal(both.only_big[0], [1, 2, 3, 4])
    assert both.only_big[1].isnull().all() and both.only_big.dtype == float
    assert dict(found.dataset(STEM, "output", model_name="tiny").sizes)["layer"] == 3
    with pytest.raises(RunError, match="has model_name = 'huge'; it is big, tiny"):
        found.dataset(STEM, "output", model_name="huge")


def test_results_over_other_axes_are_refused(tmp_path):
    add_run(tmp_path, "a", results={"output": sweep_result(0)})
    add_run(tmp_path, "b", results={"output": sweep_result(0).rename(head="kv_head")})
    with pytest.raises(RunError, match=r"'\w+' is over metric, layer, head.* but over metric, layer, kv_head"):
        patchlib.collect(tmp_path).dataset(STEM, "output")


def test_axes_without_values_and_parameters_of_the_same_name(tmp_path):
    for size in (2, 3):
        bare = xr.Dataset({"loss": ("pos", np.arange(size))}, {"seed": 7})
        add_run(tmp_path, f"n_prompts={size}", parameters={"n_prompts": size, "heads": [1, 2]}, results={"bare": bare})
    bare = patchlib.collect(tmp_path).dataset(STEM, "bare")
    np.testing.assert_array_equal(bare.loss, [[0, 1, np.nan], [0, 1, 2]])
    assert int(bare.seed) == 7 and list(bare.parameter_seed.values) == [0, 0]
    assert list(bare.heads.values) == ["[1, 2]"] * 2


def test_values_of_every_kind_are_read_as_xarray_reads_them(tmp_path):
    kinds = xr.Dataset(
        {
            "yes": ("x", [True, False]),
            "count": ("x", np.array([1, 2], "int16")),
            "when": ("x", np.array(["2026-01-01", "2026-01-02"], "datetime64[ns]")),
            "text": ("x", ["a", "é"]),
            "gap": ("x", [1.5, np.nan]),
            "one": 3.0,
        },
        {"x": ["p", "q"]},
    )
    add_run(tmp_path, "a", results={"kinds": kinds})
    collected = patchlib.collect(tmp_path).dataset(STEM, "kinds")
    path = next(tmp_path.glob("runs/*/*.kinds.nc"))
    with xr.open_dataset(path, engine="h5netcdf") as file:
        for name, expected in file.variables.items():
            found = collected[name].isel(run=0).load() if "run" in collected[name].dims else collected[name]
            np.testing.assert_array_equal(found.values, expected.values)
            assert expected.dtype.kind in "UO" or found.dtype == expected.dtype, name


def test_tables_are_put_below_one_another(folder):
    table = patchlib.collect(folder).table(STEM, "roles")
    assert list(table["score"]) == [0, 0.1, 0.2] and list(table.seed) == [0, 1, 2]
    assert table.columns[0] == "run" and list(table)[-2:] == ["head", "score"]
    assert isinstance(patchlib.collect(folder).table(STEM, "roles", seed=1), pd.DataFrame)


def test_a_plain_run_is_collected_too(tmp_path):
    add_run(tmp_path)
    add_run(tmp_path, notebook="03_other", parameters={"seed": 1}, status="failed", error="broken")
    found = patchlib.collect(tmp_path)
    assert list(found.runs.index) == [STEM, "03_other"] and list(found.runs.status) == ["ok", "failed"]
    assert found.results == {STEM: ("output", "roles")}
    assert found.dataset(STEM, "output").sizes["run"] == 1


@pytest.mark.parametrize(
    ("notebook", "result", "message"),
    [
        (STEM, "outptu", "02_head_patching: output, roles"),
        ("02", "output", "02_head_patching: output, roles"),
        (STEM, "roles", r"take \.table"),
    ],
)
def test_what_does_not_exist_is_told_beside_what_does(folder, notebook, result, message):
    with pytest.raises(RunError, match=message):
        patchlib.collect(folder).dataset(notebook, result)


def test_damage_is_listed_and_hides_no_other_run(tmp_path):
    good = add_run(tmp_path, "good")
    (add_run(tmp_path, "half") / "status.json").write_text('{"status": "o')
    (add_run(tmp_path, "text") / "status.json").write_text("[]")
    (add_run(tmp_path, "lost") / f"{STEM}.output.nc").unlink()
    (add_run(tmp_path, "bare") / f"{STEM}.manifest.json").unlink()
    runs = patchlib.collect(tmp_path).runs
    assert dict(runs.status) == {f"{STEM},{n}": "damaged" for n in ("half", "text", "lost", "bare")} | {good.name: "ok"}
    assert "status.json cannot be read" in runs.error[f"{STEM},half"]
    assert f"{STEM}.output.nc is missing" in runs.error[f"{STEM},lost"]
    collection = patchlib.collect(tmp_path)
    (good / f"{STEM}.output.nc").write_bytes(b"no netCDF")
    with pytest.raises(RunError, match=r"output\.nc cannot be read"):
        collection.dataset(STEM, "output")
    runs = patchlib.collect(tmp_path).runs
    assert set(runs.status) == {"damaged"} and "output.nc was changed after its run" in runs.error[good.name]


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(RunError, match="there are no runs in"):
        patchlib.collect(tmp_path / "nowhere")


def test_memory_is_flat_over_many_runs(tmp_path):
    """What 200 runs of 2 MB take beyond 20 of them, in a process of its own."""
    place = add_run(tmp_path, "seed=0", results={"output": xr.Dataset({"big": ("x", np.ones(250_000))})})
    content = {path.name: path.read_bytes() for path in place.iterdir()}
    for seed in range(1, 200):
        other = tmp_path / "runs" / f"{STEM},seed={seed}"
        other.mkdir()
        (other / f"{STEM}.output.nc").symlink_to(place / f"{STEM}.output.nc")
        for name in ("status.json", f"{STEM}.manifest.json"):
            (other / name).write_bytes(content[name])
    source = """
import json, sys
import patchlib, psutil
from patchlib.runs.execute.manifest import peak_memory
found = patchlib.collect(sys.argv[1])
big = found.dataset("02_head_patching", "output").big
held = []
for run in range(big.sizes["run"]):
    assert float(big.isel(run=run).sum()) == 250_000
    if run in (20, 199):
        held.append(peak_memory() / 2**20)
print(json.dumps([*held, len(psutil.Process().open_files()), "torch" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", source, tmp_path], capture_output=True, text=True, check=True)
    early, late, files, torch = json.loads(done.stdout)
    assert late - early < 30 and files < 150, (early, late, files)  # all of them would be 380 MB more
    assert not torch
