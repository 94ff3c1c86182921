import type { ComponentChildren } from 'preact';
import type { Overview } from './api.ts';
import { Chart } from './chart.tsx';
import { took, words } from './format.ts';
import { ranked, type Sample, total } from './history.ts';
import { overview, samples } from './state.ts';

/** The gateway in numbers, each with how it went since the page was opened. */
export function Numbers() {
  const numbers = overview.value;
  if (numbers === null) return null;
  const over = (pick: (sample: Sample) => number | null) =>
    samples.value.map((sample) => ({ at: sample.at, value: pick(sample) }));
  const { places, line, starts } = numbers;
  const whole = (value: number) => String(Math.round(value));
  return (
    <section class="numbers" aria-label="The gateway in numbers">
      <Tile name="Places taken" value={places.taken} of={`of ${places.max}`}>
        <Chart name="Places taken" points={over((s) => s.places)} write={whole} />
      </Tile>
      <Tile name="In line" value={line.waiting} of={line.max === 0 ? 'no line' : `of ${line.max}`}>
        <Chart name="In line" points={over((s) => s.line)} write={whole} />
      </Tile>
      <Tile name="Refusals" value={total(numbers.refusals)} of="so far">
        <Chart
          name="Refusals each minute"
          points={over((s) => s.refusals)}
          write={(value) => `${whole(value)} a minute`}
        />
      </Tile>
      <Tile
        name="Start, median"
        value={starts.p50Ms === null ? '–' : took(starts.p50Ms)}
        of={starts.p95Ms === null ? 'no start yet' : `95 %: ${took(starts.p95Ms)}`}
      >
        <Chart name="Start" points={over((s) => s.startMs)} write={took} />
      </Tile>
      <State numbers={numbers} />
    </section>
  );
}

function Tile(props: { name: string; value: number | string; of: string; children: ComponentChildren }) {
  return (
    <div class="tile">
      <h2>{props.name}</h2>
      <p>
        <strong>{props.value}</strong> {props.of}
      </p>
      {props.children}
    </div>
  );
}

const ENGINE = {
  ready: ['good', 'Ready'],
  starting: ['wait', 'Being proved'],
  down: ['bad', 'Does not answer'],
  unsafe: ['bad', 'Not sealed'],
} as const;

function State({ numbers }: { numbers: Overview }) {
  const { engine, doorClosed, pools } = numbers;
  const [mood, word] = ENGINE[engine.state];
  return (
    <dl class="state">
      <div>
        <dt>Engine</dt>
        <dd>
          <span class={`badge ${mood}`}>{word}</span> {engine.reason}
        </dd>
      </div>
      <div>
        <dt>Door</dt>
        <dd>
          {doorClosed === null ? (
            <span class="badge good">Open</span>
          ) : (
            <>
              <span class="badge bad">Closed</span> The machine is short: {words(doorClosed)}
            </>
          )}
        </dd>
      </div>
      <div>
        <dt>Pool</dt>
        <dd>
          {pools.length === 0
            ? 'Nothing is started ahead'
            : pools.map(({ template, ready, wanted }) => `${template} ${ready} of ${wanted}`).join(', ')}
        </dd>
      </div>
      <Counts name="Refused" counts={numbers.refusals} none="Nobody so far" />
      <Counts name="Sessions ended" counts={numbers.sessionsEnded} none="None so far" />
      <Counts name="Sandboxes ended" counts={numbers.sandboxesEnded} none="None so far" />
    </dl>
  );
}

function Counts({ name, counts, none }: { name: string; counts: Record<string, number>; none: string }) {
  const all = ranked(counts);
  return (
    <div>
      <dt>{name}</dt>
      <dd>
        {all.length === 0 ? none : all.map(([reason, count]) => `${words(reason)} ${count}`).join(', ')}
      </dd>
    </div>
  );
}
