"""Output of llama-perplexity's KL divergence runs: a recorded one, and made-up ones whose answer is known."""

import numpy as np

RECORDED = """\
0.00.085.238 I kl_divergence: computing over 10 chunks, n_ctx=512, batch_size=2048, n_seq=4
0.00.393.160 I kl_divergence: 0.31 seconds per pass - ETA 0.00 minutes

chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p
   1       6.8711 ±    0.9394       0.00375 ±    0.00619       0.00532 ±    0.00034     1.956 ±  0.162 %    94.118 ±  1.476 %
   2      11.0349 ±    1.3323       0.00805 ±    0.00508       0.00573 ±    0.00026     1.995 ±  0.136 %    95.098 ±  0.957 %
   3      10.8209 ±    1.0863       0.00641 ±    0.00416       0.00585 ±    0.00025     2.197 ±  0.142 %    95.556 ±  0.746 %
   4      11.2045 ±    0.9790       0.00390 ±    0.00371       0.00580 ±    0.00022     2.205 ±  0.129 %    95.686 ±  0.636 %
   5      11.1820 ±    0.8917       0.00380 ±    0.00333       0.00576 ±    0.00019     2.240 ±  0.113 %    95.608 ±  0.574 %
   6      10.3152 ±    0.7310       0.00298 ±    0.00303       0.00571 ±    0.00018     2.262 ±  0.104 %    95.294 ±  0.542 %
   7      10.0312 ±    0.6449       0.00402 ±    0.00282       0.00589 ±    0.00017     2.278 ±  0.094 %    95.462 ±  0.493 %
   8       9.6678 ±    0.5739       0.00532 ±    0.00258       0.00581 ±    0.00016     2.240 ±  0.087 %    95.490 ±  0.460 %
   9       8.9414 ±    0.4927       0.00544 ±    0.00237       0.00553 ±    0.00014     2.172 ±  0.080 %    95.773 ±  0.420 %
  10       9.6661 ±    0.5081       0.00435 ±    0.00227       0.00559 ±    0.00014     2.110 ±  0.075 %    95.725 ±  0.401 %

====== Perplexity statistics ======
Mean PPL(Q)                   :   9.666114 ±   0.508070
Mean PPL(base)                :   9.624131 ±   0.506831
Cor(ln(PPL(Q)), ln(PPL(base))):  99.91%
Mean ln(PPL(Q)/PPL(base))     :   0.004353 ±   0.002268
Mean PPL(Q)/PPL(base)         :   1.004362 ±   0.002278
Mean PPL(Q)-PPL(base)         :   0.041984 ±   0.021885

====== KL divergence statistics ======
Mean    KLD:   0.005591 ±   0.000137
Maximum KLD:   0.074144
99.9%   KLD:   0.060555
99.0%   KLD:   0.035044
95.0%   KLD:   0.017968
90.0%   KLD:   0.012519
Median  KLD:   0.003631
10.0%   KLD:   0.000214
 5.0%   KLD:   0.000077
 1.0%   KLD:   0.000014
 0.1%   KLD:   0.000004
Minimum KLD:  -0.000002

====== Token probability statistics ======
Mean    Δp: -0.160 ± 0.042 %
Maximum Δp: 14.824%
99.9%   Δp: 13.779%
99.0%   Δp:  6.024%
95.0%   Δp:  2.679%
90.0%   Δp:  1.599%
75.0%   Δp:  0.256%
Median  Δp: -0.003%
25.0%   Δp: -0.519%
10.0%   Δp: -1.986%
 5.0%   Δp: -3.276%
 1.0%   Δp: -7.632%
 0.1%   Δp: -12.891%
Minimum Δp: -14.651%
RMS Δp    :  2.110 ± 0.075 %
Same top p: 95.725 ± 0.401 %
"""
N_SCORED = 255


def table(kld: np.ndarray, ln_ratio: np.ndarray, ln_base: np.ndarray, dp: np.ndarray, same: np.ndarray) -> str:
    """The table and the figures that llama-perplexity prints for per-token values, each [n_chunks, n_scored]."""
    lines = []

    def running(values: np.ndarray) -> np.ndarray:
        return values.mean(axis=1).cumsum() / np.arange(1, len(values) + 1)

    columns = (np.exp(running(ln_base + ln_ratio)), running(ln_ratio), running(kld), np.sqrt(running(dp**2)), running(same))
    for number, (ppl, ratio, mean, rms, top) in enumerate(zip(*columns, strict=True), 1):
        lines.append(
            f"{number:4d}    {ppl:9.4f} ± {1:9.4f}    {ratio:10.5f} ± {1:10.5f}    {mean:10.5f} ± {1:10.5f}    "
            f"{100 * rms:6.3f} ± {1:6.3f} %    {100 * top:6.3f} ± {1:6.3f} %"
        )
    figures = {
        "Mean PPL(Q)                   ": columns[0][-1],
        "Mean PPL(base)                ": np.exp(ln_base.mean()),
        "Mean ln(PPL(Q)/PPL(base))     ": ln_ratio.mean(),
        "Mean    KLD": kld.mean(),
        "99.9%   KLD": np.quantile(kld, 0.999),
        "99.0%   KLD": np.quantile(kld, 0.99),
        "Median  KLD": np.median(kld),
    }
    lines += [f"{name}: {value:10.6f} ± {1:10.6f}" for name, value in figures.items()]
    lines += [f"RMS Δp    : {100 * columns[3][-1]:6.3f} ± 1.000 %", f"Same top p: {100 * same.mean():6.3f} ± 1.000 %"]
    return "\n".join(lines) + "\n"


def made_up(n_chunks: int, seed: int = 0, scale: float = 0.01) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (n_chunks, N_SCORED)
    level = rng.gamma(20, 1 / 20, (n_chunks, 1))
    return {
        "kld": level * rng.gamma(0.3, scale / 0.3, shape),
        "ln_ratio": level * rng.normal(scale, 0.1, shape),
        "ln_base": rng.normal(3, 0.5, (n_chunks, 1)) + rng.normal(0, 1, shape),
        "dp": level * rng.normal(0, 0.02, shape),
        "same": (rng.random(shape) < 0.95 / np.maximum(level, 1)).astype(np.float64),
    }
