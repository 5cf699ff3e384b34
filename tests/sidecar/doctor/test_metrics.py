"""What a scrape tells, and what it must not."""

from prometheus_client.parser import text_string_to_metric_families

from sidecar.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_is_counted_is_rendered() -> None:
    metrics = Metrics()
    metrics.fetched_bytes.inc(65536)
    metrics.peers.set(3)
    metrics.bad_input("proof")
    metrics.install_ended("pull")
    metrics.install_ended("none", "no-route")
    found = samples(metrics)
    assert found["ollaswarm_fetched_bytes_total", ()] == 65536
    assert found["ollaswarm_peers", ()] == 3
    assert found["ollaswarm_bad_input_total", (("kind", "proof"),)] == 1
    assert found["ollaswarm_bad_input_total", (("kind", "entry"),)] == 0
    assert found["ollaswarm_installs_total", (("result", "ok"), ("route", "pull"))] == 1
    assert found["ollaswarm_installs_total", (("result", "no-route"), ("route", "none"))] == 1


def test_two_daemons_in_one_process_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.peers.set(1)
    assert samples(second)["ollaswarm_peers", ()] == 0


def test_t21_no_label_can_hold_a_name() -> None:
    metrics = Metrics()
    metrics.bad_input("entry-older")
    metrics.install_ended("create")
    labels = {name for key in samples(metrics) if key[0].startswith("ollaswarm") for name, _ in key[1]}
    assert labels == {"kind", "route", "result", "le", "road", "outcome"}
