import { about } from './format.ts';
import { runs } from './history.ts';

const [WIDTH, HEIGHT] = [240, 44];

/** A line over the time since the page was opened; in words for those who do not see it. */
export function Chart(props: {
  name: string;
  points: readonly { at: number; value: number | null }[];
  write: (value: number) => string;
}) {
  const { name, points, write } = props;
  const known = points.flatMap(({ value }) => (value === null ? [] : [value]));
  const since = about((points.at(-1)?.at ?? 0) - (points[0]?.at ?? 0));
  const highest = known.length === 0 ? 'nothing yet' : `at most ${write(Math.max(...known))}`;
  return (
    <figure class="chart">
      <svg
        viewBox={`0 -2 ${WIDTH} ${HEIGHT + 4}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${name} over ${since}: ${highest}`}
      >
        <path class="floor" d={`M0 ${HEIGHT}H${WIDTH}`} />
        {runs(points, WIDTH, HEIGHT).map((run) => (
          <path key={run[0]?.x} class="line" d={draw(run)} />
        ))}
      </svg>
      <figcaption>
        <span>{since}</span>
        <span>{highest}</span>
      </figcaption>
    </figure>
  );
}

/** A point alone is a short dash. */
function draw(run: readonly { x: number; y: number }[]): string {
  const [first] = run;
  if (first === undefined) return '';
  const to = run.length === 1 ? [{ x: first.x + 2, y: first.y }] : run.slice(1);
  const place = ({ x, y }: { x: number; y: number }) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  return `M${place(first)}${to.map((point) => `L${place(point)}`).join('')}`;
}
