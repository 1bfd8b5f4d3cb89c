"""Two ranks give what one gives, also where the scenes do not divide evenly."""

import threading

import pytest
import torch

from .fixtures import evaluate, make_scenes, write_scenes
from .test_task import THOUGHT, Scripted, answer


class Ranked(Scripted):
    """A scripted model on one of two ranks, which meet at a barrier as processes would."""

    def __init__(self, rank, shared, barrier):
        super().__init__(
            lambda prompt, number: answer("ABCDE"[(len(prompt) + number) % 5], THOUGHT),
            lambda prompt: [0.6, 0.1, 0.1, 0.1, 0.1],
        )
        self._rank, self._world_size, self._device = rank, 2, torch.device("cpu")
        self.shared, self.meet, self.requests = shared, barrier, 0

    def generate_until(self, requests, disable_tqdm=False):
        self.requests += len(requests)
        return super().generate_until(requests)

    def _exchange(self, value):
        self.shared[self.rank] = value
        self.meet.wait()
        found = list(self.shared)
        self.meet.wait()
        return found

    def all_gather(self, tensor):
        return torch.stack(self._exchange(tensor))

    def gather_object(self, obj, dst=0):
        found = self._exchange(obj)
        return found if self.rank == dst else None

    def barrier(self):
        self.meet.wait()


@pytest.mark.parametrize("task", ["usermirror_movielens", "usermirror-direct_movielens"])
def test_two_ranks_score_every_scene_once(tmp_path, task):
    data = write_scenes(tmp_path / "scenes.parquet", make_scenes(7))
    shared, barrier = [None, None], threading.Barrier(2, timeout=60)
    models = [Ranked(rank, shared, barrier) for rank in (0, 1)]
    found = [None, None]

    def work(rank):
        found[rank] = evaluate(models[rank], [task], data, chat=False, ablation_samples=5)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = Ranked(0, [None], threading.Barrier(1))
    alone._world_size = 1
    expected = evaluate(alone, [task], data, chat=False, ablation_samples=5)["results"][task]
    assert found[1] is None
    assert found[0]["results"][task]["sample_len"] == 7
    for name in ("acc,none", "entropy,none", "log_loss,none"):
        assert found[0]["results"][task][name] == pytest.approx(expected[name])
    assert len({s["doc"]["scene_id"] for s in found[0]["samples"][task]}) == 7
    if task == "usermirror_movielens":
        # The rank of three scenes is padded to four, so that none waits for another: the scene,
        # without its history, and with another user's, five samples each.
        assert models[0].requests == models[1].requests == 4 * 3 * 5
