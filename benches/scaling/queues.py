"""The formulas that scaling.py plans with, and a simulation to hold them against. Standard library only.

All times are in seconds, all rates per second. Sources: any book on queues; for the pool, a base-stock policy with Poisson
demand (Feeney and Sherbrooke, "The (s-1, s) inventory policy under compound Poisson demand", 1966).
"""

import heapq
import math
import random


def erlang_b(servers, load):
    """The share of arrivals that find all of `servers` taken and go away, at `load` erlangs (arrivals x holding time)."""
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def erlang_c(servers, load):
    """The share of arrivals that have to wait when nobody goes away (M/M/c). 1 if the load cannot be served."""
    if load >= servers:
        return 1.0
    blocked = erlang_b(servers, load)
    return blocked / (1 - (load / servers) * (1 - blocked))


def mean_wait(servers, arrivals, holding):
    """The mean wait of all arrivals in an M/M/c queue."""
    load = arrivals * holding
    if load >= servers:
        return math.inf
    return erlang_c(servers, load) * holding / (servers - load)


def places_for(load, refused):
    """The least number of places of which at most a share `refused` of arrivals finds none (Erlang B)."""
    blocked, n = 1.0, 0
    while blocked > refused:
        n += 1
        blocked = load * blocked / (n + load * blocked)
    return n


def poisson_tail(mean, at_least):
    """P(X >= at_least) of a Poisson variable."""
    term = total = math.exp(-mean)
    if at_least <= 0:
        return 1.0
    for k in range(1, at_least):
        term *= mean / k
        total += term
    return max(0.0, 1.0 - total)


def misses(pool, arrivals, start):
    """The share of visitors who find the pool empty, if each claim orders one start, which takes `start`.

    Sandboxes being started are an M/G/infinity queue, so their number is Poisson with mean arrivals x start whatever the
    distribution of starts; the pool is empty when it is `pool` or more, and arrivals see averages over time.
    """
    return poisson_tail(arrivals * start, pool)


def pool_for(arrivals, start, missed):
    """The least pool of which at most a share `missed` of visitors finds it empty."""
    pool = 0
    while misses(pool, arrivals, start) > missed:
        pool += 1
    return pool


def simulate_queue(servers, arrivals, holding, count, seed=1):
    """An M/M/c queue of `count` visitors: the share that waited, the mean wait, and the mean number in the system."""
    chance = random.Random(seed)
    free_at = [0.0] * servers
    now = waited = wait_total = time_total = 0.0
    last = 0.0
    for _ in range(count):
        now += chance.expovariate(arrivals)
        begins = max(now, heapq.heappop(free_at))
        ends = begins + chance.expovariate(1 / holding)
        heapq.heappush(free_at, ends)
        waited += begins > now
        wait_total += begins - now
        time_total += ends - now
        last = max(last, ends)
    return waited / count, wait_total / count, time_total / last


def simulate_pool(pool, arrivals, start, count, seed=1):
    """The share of `count` visitors who found a pool of `pool` empty; starts take exactly `start`."""
    chance = random.Random(seed)
    ready = [0.0] * pool  # when each sandbox of the pool is there; a claim orders the next
    now, missed = 0.0, 0
    for _ in range(count):
        now += chance.expovariate(arrivals)
        missed += heapq.heappop(ready) > now
        heapq.heappush(ready, now + start)
    return missed / count


def simulate_burst(visitors, pool, rate):
    """When the last of `visitors`, who come at once, has a shell: the pool serves some, the rest is started in order."""
    return max(0, visitors - pool) / rate
