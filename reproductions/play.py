"""Command `reproduce play`: an episode of a run's agent as GIF and mp4."""

from tfmem.video import write_gif, write_video

from .runs import UsageError, open_run, refusals

PIXELS = 320  # of the longer side, about


def write_episode(run, out, number, fps, modules):
    """Write an episode of a run's agent on a level of evaluations to `out`/episode_<number>.gif and .mp4.

    Args:
      run: run folder.
      out: folder to write.
      number: at least 0; selects the level and the agent's draws.
      fps: frames per second, 1 to 50.
      modules: as from `reproductions.experiment_modules`.

    Raises:
      RunFolderError: as `open_run`.
      UsageError: the run has no agent, or a number is out of its range.
    """
    for name, value, low, high in (("episode", number, 0, 2**31 - 1), ("fps", fps, 1, 50)):
        if not low <= value <= high:
            raise UsageError(f"{name}: {value}, must be from {low} to {high}")
    _, experiment, _ = open_run(run, modules)
    if not hasattr(experiment, "play"):
        raise UsageError(f"RUN: {run}, must be the run of an agent; {experiment.name} has none")
    with refusals():
        played = experiment.play(number)
    scale = max(1, PIXELS // max(played.pictures.shape[1:3]))
    frames = played.pictures.repeat(scale, axis=1).repeat(scale, axis=2)
    out.mkdir(parents=True, exist_ok=True)
    for write, ending in ((write_gif, "gif"), (write_video, "mp4")):
        write(frames, out / f"episode_{number}.{ending}", fps)
    print(f"return {played.rewards.sum():.4g} in {len(played.actions)} steps")
    print(f"written: {out / f'episode_{number}.gif'} and .mp4")
