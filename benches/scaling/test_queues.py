"""The formulas against known results, and against the simulation: python3 -m unittest, in this directory."""

import unittest

import queues
import scaling


class Formulas(unittest.TestCase):
    def test_one_server_is_the_textbook_queue(self):
        # M/M/1: P(wait) is the load, and the mean wait is load * holding / (1 - load).
        self.assertAlmostEqual(queues.erlang_c(1, 0.8), 0.8)
        self.assertAlmostEqual(queues.mean_wait(1, 0.8, 1.0), 4.0)

    def test_two_servers_are_the_textbook_queue(self):
        # M/M/2: P(wait) = 2 r^2 / (1 + r) with r the load of a server.
        self.assertAlmostEqual(queues.erlang_c(2, 1.5), 2 * 0.75**2 / 1.75)

    def test_published_values(self):
        # From tables of Erlang's formulas: 10 lines at 5 erlangs block 1.84 %; 10 agents at 8 erlangs: 40.9 % wait.
        self.assertAlmostEqual(queues.erlang_b(10, 5), 0.0184, places=4)
        self.assertAlmostEqual(queues.erlang_c(10, 8), 0.4092, places=4)

    def test_too_much_load_waits_for_ever(self):
        self.assertEqual(queues.erlang_c(4, 4), 1.0)
        self.assertEqual(queues.mean_wait(4, 4.5, 1.0), float("inf"))

    def test_places_are_the_fewest_that_do(self):
        places = queues.places_for(100, 0.01)
        self.assertLessEqual(queues.erlang_b(places, 100), 0.01)
        self.assertGreater(queues.erlang_b(places - 1, 100), 0.01)
        self.assertEqual(places, 117)  # as in the tables, too

    def test_poisson(self):
        self.assertEqual(queues.poisson_tail(3.0, 0), 1.0)
        self.assertAlmostEqual(queues.poisson_tail(1.0, 1), 1 - 2.718281828459045**-1)

    def test_a_pool_is_the_smallest_that_does(self):
        pool = queues.pool_for(2.0, 3.0, 0.01)
        self.assertLessEqual(queues.misses(pool, 2.0, 3.0), 0.01)
        self.assertGreater(queues.misses(pool - 1, 2.0, 3.0), 0.01)


class Simulation(unittest.TestCase):
    def test_queue_agrees_with_erlang_c_and_with_littles_law(self):
        for servers, arrivals, holding in ((1, 0.7, 1.0), (5, 4.0, 1.0), (20, 0.9, 20.0)):
            waited, wait, inside = queues.simulate_queue(servers, arrivals, holding, 200_000)
            self.assertAlmostEqual(waited, queues.erlang_c(servers, arrivals * holding), delta=0.02)
            expected = queues.mean_wait(servers, arrivals, holding)
            self.assertAlmostEqual(wait, expected, delta=0.06 * expected + 0.01)
            # Little: those inside are the arrivals times the time that each spends inside.
            self.assertAlmostEqual(inside / (arrivals * (wait + holding)), 1.0, delta=0.02)

    def test_pool_agrees_with_poisson(self):
        for pool, arrivals, start in ((1, 0.5, 1.0), (5, 2.0, 1.5), (12, 6.0, 1.0)):
            missed = queues.simulate_pool(pool, arrivals, start, 200_000)
            self.assertAlmostEqual(missed, queues.misses(pool, arrivals, start), delta=0.01)

    def test_the_same_seed_is_the_same_result(self):
        self.assertEqual(queues.simulate_pool(3, 1.0, 2.0, 1000, seed=7), queues.simulate_pool(3, 1.0, 2.0, 1000, seed=7))


class Day(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.plan = scaling.Plan(20_000)
        cls.day = scaling.Day(cls.plan)

    def test_the_peak_is_what_it_is_said_to_be(self):
        rates = [scaling.arrivals_at(20_000, second) for second in range(0, scaling.SECONDS_A_DAY, 60)]
        mean = sum(rates) / len(rates)
        self.assertAlmostEqual(mean * scaling.SECONDS_A_DAY / 20_000, 1.0, places=3)
        self.assertAlmostEqual(max(rates) / mean, scaling.PEAK, places=2)

    def test_a_day_keeps_littles_law(self):
        self.assertAlmostEqual(self.day.visitors / 20_000, 1.0, delta=0.02)
        self.assertAlmostEqual(self.day.seconds / self.day.visitors / scaling.SESSION_MEAN_SECONDS, 1.0, delta=0.02)

    def test_a_day_is_served_with_what_the_formulas_ask_for(self):
        self.assertLessEqual(self.day.cold / self.day.visitors, scaling.COLD)
        self.assertLessEqual(self.day.waited / self.day.visitors, scaling.REFUSED)
        self.assertLessEqual(self.day.most, self.plan.places)


if __name__ == "__main__":
    unittest.main()
