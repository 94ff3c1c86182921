import { about, countdown, size, words } from './format.ts';
import { act, api, go, more, now, question, type Row, rows, type Show, show, shown, text } from './state.ts';

const SHOWS: [Show, string][] = [
  ['all', 'All'],
  ['visitors', 'Visitors'],
  ['programs', 'Programs'],
  ['ended', 'Ended'],
];

/** Sessions and sandboxes, one in each row; on a phone, in each card. */
export function List() {
  return (
    <section class="list" aria-labelledby="list-title">
      <div class="bar">
        <h2 id="list-title">Sessions and sandboxes</h2>
        <fieldset>
          <legend class="unseen">Show</legend>
          {SHOWS.map(([name, label]) => (
            <label key={name}>
              <input
                type="radio"
                name="show"
                checked={show.value === name}
                onChange={() => {
                  show.value = name;
                }}
              />
              <span>{label}</span>
            </label>
          ))}
        </fieldset>
        <input
          type="search"
          aria-label="Filter"
          placeholder="Filter by id, client, template, state"
          value={text.value}
          onInput={({ currentTarget }) => {
            text.value = currentTarget.value;
          }}
        />
      </div>
      {shown.value.length === 0 ? <Empty /> : <Table />}
      {more.value && <p class="quiet">There are more than are shown here. The API has them all.</p>}
    </section>
  );
}

function Empty() {
  if (rows.value.length > 0) return <p class="empty">Nothing here has these words in it.</p>;
  return (
    <p class="empty">
      Nobody is here. Open <a href=".">the page</a> in another tab to be a visitor, or create a sandbox above.
    </p>
  );
}

function Table() {
  return (
    <table>
      <thead>
        <tr>
          {['Id', 'State', 'Who', 'Template', 'Time', 'CPU', 'Memory', 'Actions'].map((name) => (
            <th key={name} scope="col">
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {shown.value.map((row) => (
          <One key={row.id} row={row} />
        ))}
      </tbody>
    </table>
  );
}

/** States that are as they should be, that will pass, and that should not be. */
const MOODS: Record<string, string> = {
  attached: 'good',
  running: 'good',
  starting: 'wait',
  detached: 'wait',
  stopped: 'wait',
  error: 'bad',
};

const short = (id: string) => id.replace(/^sess_/, '').slice(0, 8);

function One({ row }: { row: Row }) {
  const { state, reason, usage, cpu, over } = row;
  return (
    <tr class={over ? 'over' : ''} data-id={row.id}>
      <td data-name="Id">
        <span>
          <code title={row.id}>{short(row.id)}</code> {row.kind === 'session' ? 'session' : 'sandbox'}
        </span>
      </td>
      <td data-name="State">
        <span>
          <span class={`badge ${MOODS[state] ?? ''}`}>{state}</span> {reason !== null && words(reason)}
          {!over && row.viewers > 0 && ` ${row.viewers} watching`}
          {!over && row.recorded && ' recorded'}
        </span>
      </td>
      <td data-name="Who">{row.who}</td>
      <td data-name="Template">{row.template}</td>
      <td data-name="Time" class="number">
        {over ? `${about(now.value - row.endedAt)} ago` : countdown(row.expiresAt - now.value)}
      </td>
      <td data-name="CPU" class="number">
        {cpu === null ? '–' : `${Math.round(cpu * 100)} %`}
      </td>
      <td data-name="Memory" class="number">
        {usage === null ? '–' : <Memory used={usage.memoryBytes} of={usage.memoryLimitBytes} />}
      </td>
      <td class="actions">{!over && <Actions row={row} />}</td>
    </tr>
  );
}

function Memory({ used, of }: { used: number; of: number }) {
  if (of === 0) return <>{size(used)}</>;
  return (
    <span class="memory">
      {size(used)} <meter min={0} max={of} high={of * 0.85} value={used} aria-label={`of ${size(of)}`} />
    </span>
  );
}

function Actions({ row }: { row: Row }) {
  const session = row.kind === 'session';
  const name = short(row.id);
  const open = () => go({ name: session ? 'watch' : 'sandbox', id: row.id });
  const runs = session ? row.state !== 'starting' : row.state === 'running';
  return (
    <>
      {runs && (
        <button type="button" onClick={open} aria-label={`${session ? 'Watch' : 'Open'} ${name}`}>
          {session ? 'Watch' : 'Open'}
        </button>
      )}
      <button type="button" onClick={() => askToEnd(row.kind, row.id)} aria-label={`End ${name}`}>
        End
      </button>
    </>
  );
}

/** Ends it, once the operator has said so twice. `then` goes on from there. */
export function askToEnd(kind: Row['kind'], id: string, then: () => void = () => {}): void {
  const session = kind === 'session';
  question.value = {
    title: `End ${session ? 'session' : 'sandbox'} ${short(id)}?`,
    detail: session
      ? 'Everything in it is gone. Its visitor is told that the operator has ended it.'
      : 'Everything in it is gone. Its program finds it no more.',
    action: 'End it',
    run: () =>
      act(`${session ? 'Session' : 'Sandbox'} ${short(id)} has ended.`, async () => {
        if (session) await api.value?.endSession(id);
        else await api.value?.endSandbox(id);
        then();
      }),
  };
}
