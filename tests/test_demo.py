"""The demonstration: its model, its statistics, its progress lines, and the command itself."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tapejit.__main__ import main
from tapejit.demo import model, progress, run, timing
from tapejit.demo.fit import Fit, covariance, curve_errors, standard_errors

PARAMETERS = [0.55, 0.028, 0.80, 0.024, 33.0, 6.0, 0.25, 0.3]


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        return True


class TestModel:
    def test_pelts(self) -> None:
        pelts = model.load_pelts()
        np.testing.assert_array_equal(pelts.year, np.arange(1900, 1921))
        assert (pelts.lynx[0], pelts.hare[0]) == (4.0, 30.0)
        assert (pelts.lynx[-1], pelts.hare[-1]) == (8.6, 24.7)

    def test_runge_kutta_conserves_what_the_equations_conserve(self) -> None:
        alpha, beta, gamma, delta = PARAMETERS[:4]
        hares, lynxes = map(np.array, model.simulate(PARAMETERS, years=20, steps=50))
        invariant = delta * hares - gamma * np.log(hares) + beta * lynxes - alpha * np.log(lynxes)
        assert np.ptp(invariant) < 1e-7

    def test_runge_kutta_is_of_fourth_order(self) -> None:
        ends = [model.simulate(PARAMETERS, 5, steps)[0][-1] for steps in (8, 16, 32)]
        assert (ends[1] - ends[0]) / (ends[2] - ends[1]) == pytest.approx(16, rel=0.15)

    def test_likelihood_is_log_normal(self) -> None:
        pelts = model.load_pelts()
        hares, lynxes = model.simulate(PARAMETERS, 20, 10)
        expected = (
            stats.lognorm.logpdf(pelts.hare, PARAMETERS[6], scale=hares[::10]).sum()
            + stats.lognorm.logpdf(pelts.lynx, PARAMETERS[7], scale=lynxes[::10]).sum()
        )
        cost = model.negative_log_likelihood(pelts, 10)
        assert cost(PARAMETERS) == pytest.approx(-expected, rel=1e-12)
        assert model.of_logarithms(cost)(np.log(PARAMETERS)) == pytest.approx(-expected, rel=1e-12)

    def test_curves(self) -> None:
        curves = model.log_curves(3, 4)(PARAMETERS)
        assert curves.shape == (2, 13)
        np.testing.assert_allclose(np.exp(curves[:, 0]), [33.0, 6.0])


class TestStatistics:
    def test_covariance_is_the_inverse(self) -> None:
        hessian = np.array([[4.0, 1.0], [1.0, 3.0]])
        np.testing.assert_allclose(covariance(hessian) @ hessian, np.eye(2), atol=1e-14)

    @pytest.mark.parametrize("hessian", [np.diag([1.0, -1.0]), np.zeros((2, 2))])
    def test_saddles_have_none(self, hessian: np.ndarray) -> None:
        with pytest.raises(ValueError, match="not a minimum"):
            covariance(hessian)

    def test_delta_method(self) -> None:
        errors = standard_errors(np.log([2.0, 3.0]), np.diag([0.01, 0.04]))
        np.testing.assert_allclose(errors, [0.2, 0.6])

    def test_errors_of_a_curve(self) -> None:
        rng = np.random.default_rng(0)
        jacobian, root = rng.normal(size=(2, 5, 3)), rng.normal(size=(3, 3))
        errors = curve_errors(jacobian, root @ root.T)
        np.testing.assert_allclose(errors, np.linalg.norm(jacobian @ root, axis=-1))


class TestProgress:
    def test_plain_bar_redraws_on_a_terminal(self) -> None:
        bar = progress.PlainBar("fitting", Terminal())
        bar.advance(50, "half")
        bar.advance(70, "done")
        bar.close()
        half, done, closed = bar.stream.getvalue().split("\r")[1:]
        assert half == f"fitting [{'#' * 15}{'.' * 15}]  50%  half"
        assert done == f"fitting [{'#' * 30}] 100%  done"
        assert closed == done + "\n"

    def test_plain_bar_is_one_line_elsewhere(self) -> None:
        bar = progress.PlainBar("fitting", io.StringIO())
        bar.advance(50, "half")
        bar.advance(50, "done")
        bar.close()
        assert bar.stream.getvalue() == f"fitting [{'#' * 30}] 100%  done\n"

    def test_bar_without_tqdm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tqdm", None)
        assert isinstance(progress.progress_bar("fitting"), progress.PlainBar)

    def test_bar_with_tqdm(self, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("tqdm")
        bar = progress.progress_bar("fitting")
        bar.advance(120, "done")
        bar.close()
        assert "100%" in capsys.readouterr().err

    def test_notice_counts_on_a_terminal(self) -> None:
        notice = progress.CompileNotice(Terminal())
        notice("forward")
        notice("reverse")
        notice.close()
        first, second = notice.stream.getvalue().split("\r")[1:]
        assert "compiling kernel 1 " in first
        assert "compiling kernel 2 " in second
        assert second.endswith("\n")

    def test_notice_is_one_line_elsewhere(self) -> None:
        notice = progress.CompileNotice(io.StringIO())
        notice("forward")
        notice("reverse")
        notice.close()
        assert notice.stream.getvalue().count("first run on this machine") == 1

    def test_no_notice_without_compilation(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress.announce_compilation():
            pass
        assert capsys.readouterr().err == ""

    def test_notice_hears_of_compilations_and_stops_listening(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        listening = []

        def on_compile(callback):
            listening.append(callback)
            return listening.clear

        monkeypatch.setattr(progress, "on_compile", on_compile)
        with progress.announce_compilation() as notice:
            listening[0]("forward")
        assert notice.count == 1
        assert not listening


class TestTiming:
    def test_median(self) -> None:
        calls = []
        assert timing.median_seconds(calls.append, 1, budget=0.0) >= 0.0
        assert calls == [1, 1, 1]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(12.3456, "12.3 s"), (0.0123, "12.3 ms"), (4.5e-5, "45 µs"), (7e-8, "70 ns")],
    )
    def test_readable(self, seconds: float, text: str) -> None:
        assert timing.readable(seconds) == text

    @pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
    def test_age_of_the_process(self) -> None:
        assert 0.0 < timing.seconds_since_process_start() < 86_400.0

    def test_age_is_unknown_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(_path: Path) -> str:
            raise FileNotFoundError

        monkeypatch.setattr(Path, "read_text", missing)
        assert timing.seconds_since_process_start() is None


class TestCommand:
    def test_fits_and_draws(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        picture = tmp_path / "fit.png"
        assert main(["demo", "--steps", "10", "--output", str(picture)]) == 0
        printed = capsys.readouterr().out
        assert "Converged" in printed
        assert "log likelihood -122.926" in printed
        assert f"Wrote {picture}" in printed
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_estimates_and_errors(self) -> None:
        fit = run.run(None, steps=10)
        np.testing.assert_allclose(fit.parameters[:4], [0.55, 0.028, 0.80, 0.024], rtol=0.05)

    def test_no_plot(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["demo", "--steps", "4", "--no-plot"]) == 0
        assert not list(tmp_path.iterdir())
        assert "std. error" in capsys.readouterr().out

    def test_without_matplotlib(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(run, "find_spec", lambda _name: None)
        assert main(["demo", "--steps", "4", "--output", str(tmp_path / "fit.png")]) == 0
        assert "matplotlib is not installed" in capsys.readouterr().out

    @pytest.mark.parametrize("converged", [True, False])
    def test_exit_code(self, monkeypatch: pytest.MonkeyPatch, converged: bool) -> None:
        fit = Fit(np.zeros(8), 0.0, 1, 1, 0.0, converged=converged, message="")
        monkeypatch.setattr(run, "run", lambda _output, _steps: fit)
        assert main(["demo", "--no-plot"]) == (0 if converged else 1)

    def test_failure_to_converge_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        fit = Fit(np.zeros(8), 0.0, 1, 1, 0.0, converged=True, message="too many iterations")
        run._print_outcome(replace(fit, converged=False))
        assert "NOT converged (too many iterations)" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "required: command"),
            (["demo", "--steps", "0"], "'0' is not a positive whole number"),
            (["demo", "--steps", "many"], "'many' is not a positive whole number"),
            (["demo", "--output", "fit.gif"], "does not end in .png, .svg or .pdf"),
            (["demo", "--output", "no/such/folder/fit.png"], "there is no folder"),
        ],
    )
    def test_bad_arguments(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err
