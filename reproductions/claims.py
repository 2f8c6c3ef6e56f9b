"""Claims of the papers as data: the settings that each compares, by which score, and in which direction.

`reproductions.verdicts` compares them with the recorded results.
"""

import dataclasses

SOLVED = 0.05  # Not specified; we use bAbI's limit, below which a task counts as solved.


@dataclasses.dataclass(frozen=True)
class Until:
    """Updates until a recorded curve is below a bound; a run that never is counts with all of its updates."""

    column: str
    bound: float


@dataclasses.dataclass(frozen=True)
class Side:
    """Runs of one setting.

    Attributes:
      label: its name in the table.
      setting: as in the records: the preset with the changes to it.
      earlier: scores {seed: score} of runs from before results were recorded. They count until two seeds are recorded.
      metric: its score; "": the claim's.
    """

    label: str
    setting: str
    earlier: dict[int, float] = dataclasses.field(default_factory=dict)
    metric: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """Claim that sides are ahead of others, or that they solve a task and others do not.

    Attributes:
      text: the claim, with its place in the paper.
      experiment: without the paper's folder.
      setting: task and score, for readers.
      metric: name of the score in result.json, or a score of a curve.
      lower_is_better: direction of the score.
      ahead: sides that the claim says are better than all of `behind`.
      behind: the other sides.
      solved: bound of the score. If it is given, all of `ahead` must be beyond it and all of `behind` must not.
      earlier: result of runs from before results were recorded, where their scores are not known. It is shown until all
        sides have two recorded seeds.
    """

    text: str
    experiment: str
    setting: str
    metric: str | Until
    lower_is_better: bool
    ahead: tuple[Side, ...]
    behind: tuple[Side, ...] = ()
    solved: float | None = None
    earlier: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Claim whose result is a measurement of cost, not a run.

    Attributes:
      text, setting, result, verdict: cells of its row.
      page: anchor of the page that has the measurement and names its command, from the repository's root.
    """

    text: str
    setting: str
    result: str
    verdict: str
    page: str


MULTIGRID = (
    Claim(
        text="maps better than DNC and ConvLSTM (Table 1), and than an LSTM",
        experiment="mapping",
        setting="7×7 mazes, F-score",
        metric="f_score",
        lower_is_better=False,
        ahead=(Side("multigrid", "demo", {0: 0.926}),),
        behind=(Side("DNC", "demo_dnc"), Side("ConvLSTM", "demo_conv_lstm"), Side("LSTM", "demo_lstm")),
    ),
    Claim(
        text="sorts vectors better than the DNC (Table 2)",
        experiment="priority_sort",
        setting="6 vectors, error of bits",
        metric="error",
        lower_is_better=True,
        ahead=(Side("multigrid", "demo", {1: 0.036}),),
        behind=(Side("DNC", "demo_dnc"),),
    ),
    Claim(
        text="sorts digits better than the DNC (Table 2)",
        experiment="mnist_sort",
        setting="3 digits, error",
        metric="error",
        lower_is_better=True,
        ahead=(Side("multigrid", "demo", {1: 0.077}),),
        behind=(Side("DNC", "demo_dnc"),),
    ),
    Claim(
        text="recalls better than the DNC (Table 2)",
        experiment="associative_recall",
        setting="6 items, error of bits",
        metric="error",
        lower_is_better=True,
        ahead=(Side("multigrid", "demo", {1: 0.0123}),),
        behind=(Side("DNC", "demo_dnc"),),
    ),
    Claim(
        text="answers questions better than the DNC (Table 3)",
        experiment="babi",
        setting="2 tasks of bAbI, error in %",
        metric="mean_error",
        lower_is_better=True,
        ahead=(Side("multigrid", "demo", {1: 12.3}),),
        behind=(Side("DNC", "demo_dnc"),),
    ),
)

RELATIONAL = (
    Claim(
        text="RMC beats LSTM and DNC in Nth farthest (§5.1)",
        experiment="nth_farthest",
        setting="4 vectors of one number, accuracy (guess 0.5)",
        metric="accuracy",
        lower_is_better=False,
        ahead=(Side("RMC", "demo"),),
        behind=(Side("LSTM", "demo_lstm"), Side("DNC", "demo_dnc")),
    ),
    *(
        Claim(
            text=f"several memories beat one (Figure 4), {gates} gates",
            experiment="nth_farthest",
            setting="the same, 4 heads, 256 units",
            metric="accuracy",
            lower_is_better=False,
            ahead=(Side("4 memories", f"demo{change}"),),
            behind=(Side("one", f"demo, core.mem_slots=1, core.head_size=64{change}"),),
        )
        for gates, change in (("unit", ""), ("memory", ', core.gate_style="memory"'))
    ),
    *(
        Claim(
            text=f"RMC is at least as good as LSTM on programs (Table 1): {program}",
            experiment="program_evaluation",
            setting=f"{size}, top accuracy of characters",
            metric="top_accuracy",
            lower_is_better=False,
            ahead=(Side("RMC", setting),),
            behind=(Side("LSTM", f"{setting}, core=LSTM()"),),
        )
        for program, size, setting in (
            ("copy", "5 digits", "demo_copy"),
            ("reverse", "5 digits", "demo_reverse"),
            ("double", "5 digits", 'demo_copy, task.program="double"'),
            ("addition", "3 digits", "demo"),
            ("control", "3 digits", 'demo, task.program="control"'),
            ("full program", "3 digits", 'demo, task.program="full_program"'),
        )
    ),
    Claim(
        text="RMC beats ConvLSTM in BoxWorld (A.3.1)",
        experiment="box_world",
        setting="10×10, share of levels solved",
        metric="solved",
        lower_is_better=False,
        ahead=(Side("RMC", "demo"),),
        behind=(Side("ConvLSTM", "demo_conv_lstm"),),
    ),
    Claim(
        text="RMC beats LSTM in Mini Pacman (Figure 10)",
        experiment="mini_pacman",
        setting="1,000 steps, score",
        metric="episode_return",
        lower_is_better=False,
        ahead=(Side("RMC", "demo"),),
        behind=(Side("LSTM", "demo_lstm"),),
    ),
    Claim(
        text="RMC beats LSTM in language modeling (Table 2)",
        experiment="language_modeling",
        setting="WikiText-2, test perplexity",
        metric="test_perplexity",
        lower_is_better=True,
        ahead=(Side("RMC", "demo", {1: 251}),),
        behind=(Side("LSTM", "demo_lstm", {1: 254}),),
    ),
)

METALEARNED = (
    Claim(
        text="MNM-p solves dictionaries, LSTM does not in that time (Figure 2)",
        experiment="dictionary_inference",
        setting="(4, 1), error",
        metric="error",
        lower_is_better=True,
        ahead=(Side("MNM-p", "demo", {1: 0.0023, 2: 0, 3: 0.0008}),),
        behind=(Side("LSTM", "demo_lstm", {1: 0.716, 2: 0.707, 3: 0.723}),),
        solved=SOLVED,
    ),
    Claim(
        text="MNM-g solves them, too (Figure 2)",
        experiment="dictionary_inference",
        setting="(4, 1), error",
        metric="error",
        lower_is_better=True,
        ahead=(Side("MNM-g", "demo_mnm_g", {1: 0, 2: 0.710, 3: 0.0016}),),
        solved=SOLVED,
    ),
    Claim(
        text="MNM solves larger dictionaries, LSTM does not (Figure 2)",
        experiment="dictionary_inference",
        setting="(8, 4), error",
        metric="error",
        lower_is_better=True,
        ahead=(Side("MNM-p", "demo_8_4", {2: 0.016}), Side("MNM-g", "demo_8_4_mnm_g")),
        behind=(Side("LSTM", "demo_8_4_lstm", {2: 0.913}),),
        solved=SOLVED,
    ),
    Claim(
        text="MNM solves double copy, LSTM does not in that time (Figure 4)",
        experiment="double_copy",
        setting="8 symbols, error",
        metric="error",
        lower_is_better=True,
        ahead=(Side("MNM-p", "demo", {1: 0, 2: 0.0001, 3: 0}),),
        behind=(Side("LSTM", "demo_lstm", {1: 0.207, 2: 0.193, 3: 0.176}),),
        solved=SOLVED,
    ),
    Claim(
        text="LSTM+SALU is best at priority sort (Figure 4)",
        experiment="priority_sort",
        setting="4 of 5 vectors, error of bits",
        metric="error",
        lower_is_better=True,
        ahead=(Side("LSTM+SALU", "demo_lstm_salu", {1: 0.051, 2: 0.051, 3: 0.055}),),
        behind=(
            Side("MNM-p", "demo", {1: 0.098, 2: 0.097, 3: 0.102}),
            Side("LSTM", "demo_lstm", {1: 0.112, 2: 0.112, 3: 0.112}),
        ),
    ),
    Claim(
        text="the local rule converges faster than the gradient (§1)",
        experiment="dictionary_inference",
        setting=f"(4, 1), updates until the training error is below {SOLVED:g}",
        metric=Until("train/error", SOLVED),
        lower_is_better=True,
        ahead=(Side("MNM-p", "demo"),),
        behind=(Side("MNM-g", "demo_mnm_g"),),
        earlier="two of three seeds of MNM-g are solved before MNM-p's, the third is not solved",
    ),
    Measured(
        text="the local rule takes less time than the gradient (§3.4)",
        setting="training step of 89 steps",
        result="0.82 of MNM-g's with XLA, 0.54 in a plain graph",
        verdict="comes out",
        page="docs/cores/metalearned.md#cost-per-step-and-sequence",
    ),
    Measured(
        text="MNM's cost is linear in length, LSTM+SALU's quadratic (Figure 3)",
        setting="64 to 1,024 steps, power of T",
        result="MNM-p 1.12; MNM-g 0.84; LSTM+SALU 2.45",
        verdict="comes out",
        page="reproductions/metalearned/README.md#results",
    ),
    Claim(
        text="MNM-p is best on bAbI (Table 1)",
        experiment="babi",
        setting="2 tasks, error in %",
        metric="mean_error",
        lower_is_better=True,
        ahead=(Side("MNM-p", "demo", {1: 0.4}),),
        behind=(
            Side("MNM-g", "demo_mnm_g"),
            Side("LSTM+SALU", "demo_lstm_salu"),
            Side("DNC", "demo_dnc"),
            Side("EntNet", "demo_entnet"),
        ),
    ),
    Claim(
        text="MNM learns a maze in fewer episodes than plastic networks (Figure 6)",
        experiment="maze",
        setting="7×7, 64,000 episodes, reward",
        metric="episode_return",
        lower_is_better=False,
        ahead=(Side("MNM-p", "demo"), Side("MNM-g", "demo_mnm_g")),
        behind=(Side("plastic", "demo_plastic"), Side("homogeneous", "demo_homogeneous")),
    ),
)

BELIEF_STATES = (
    Claim(
        text="longer overshoot lowers the map's error (Figure 10)",
        experiment="random_city",
        setting="Random City, map MSE",
        metric="map_mse",
        lower_is_better=True,
        ahead=(Side("L_o 2", "demo", {1: 0.00787, 2: 0.00791}),),
        behind=(Side("L_o 1", "demo_overshoot_1", {1: 0.00798, 2: 0.00796}),),
    ),
    Claim(
        text="a generative model of frames shapes beliefs better than a deterministic one",
        experiment="random_city",
        setting="Random City, map MSE",
        metric="map_mse",
        lower_is_better=True,
        ahead=(Side("ConvDRAW", "demo_generative"),),
        behind=(Side("deterministic", "demo", {1: 0.00787, 2: 0.00791}),),
    ),
    Claim(
        text="the best κ, about 10⁻³, is inside the sweep (Figure 9)",
        experiment="geco_sweep",
        setting="Random City, map MSE",
        metric="map_mse",
        lower_is_better=True,
        ahead=(Side("κ 10⁻³", "demo_1e-3"),),
        behind=(Side("10⁻⁴", "demo_1e-4"), Side("3·10⁻²", "demo_3e-2")),
    ),
    Claim(
        text="the map's error falls along a trajectory (Figure 12)",
        experiment="random_city",
        setting="Random City, map MSE",
        metric="map_mse",
        lower_is_better=True,
        ahead=(Side("last step", "demo", {1: 0.00831, 2: 0.00830}, metric="map_mse_last"),),
        behind=(Side("mean", "demo", {1: 0.00787, 2: 0.00791}),),
    ),
    Claim(
        text="an agent learns faster with SimCore (abstract)",
        experiment="terrain_agent",
        setting="blocks collected after 1,500 updates",
        metric="episode_return",
        lower_is_better=False,
        ahead=(Side("with SimCore", "demo"),),
        behind=(Side("agent alone", "demo_agent_alone"),),
    ),
)

CLAIMS = {  # by the paper's folder
    "multigrid": MULTIGRID,
    "relational": RELATIONAL,
    "metalearned": METALEARNED,
    "belief_states": BELIEF_STATES,
}
