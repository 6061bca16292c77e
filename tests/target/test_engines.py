"""Real engines on another machine."""


def test_onnxruntime_is_timed_on_the_target(machine, python_there, toys):
    status, out, err = toys.run(
        *machine.settings(python_there),
        "strategy=random",
        "tuning.max_trials=1",
        "metrics.objectives=[latency,memory]",
        "measure.latency_runs=20",
        "measure.final_runs=20",
        "run_dir=sample",
    )
    assert status in (0, 3), (out, err)
    result = toys.result("sample")
    assert result["machine"]["target"] == machine.address(python_there)
    assert result["machine"]["engine"]["onnxruntime"] == result["versions"]["onnxruntime"]
    assert result["machine"]["agreement"]["noise"] == 0.0  # it is the same processor, in fact
    assert result["machine"]["best_ceiling"] > 0
    assert result["tuned"]["int8_ops"] > 0
    assert result["tuned"]["memory_bytes"] > 2**20
    assert (toys.folder / "sample" / "model" / "model.onnx").is_file()
