import { useSignal } from '@preact/signals';
import type { TargetedEvent } from 'preact';
import type { Outcome } from './api.ts';
import { api, sentence } from './state.ts';

/** Runs a command and shows what it said. */
export function Command({ id }: { id: string }) {
  const busy = useSignal(false);
  const outcome = useSignal<Outcome | null>(null);
  const failed = useSignal('');
  const submit = async (event: TargetedEvent<HTMLFormElement, Event>) => {
    event.preventDefault();
    const command = String(new FormData(event.currentTarget).get('command') ?? '').trim();
    if (command === '') return;
    busy.value = true;
    failed.value = '';
    outcome.value = null;
    try {
      outcome.value = (await api.value?.run(id, command)) ?? null;
    } catch (error) {
      failed.value = sentence(error);
    } finally {
      busy.value = false;
    }
  };
  const told = outcome.value;
  return (
    <section aria-labelledby="command-title">
      <h3 id="command-title">Command</h3>
      <form class="row" onSubmit={submit}>
        <input
          name="command"
          aria-label="Command"
          placeholder="df -h ~"
          autocomplete="off"
          autocapitalize="off"
          spellcheck={false}
        />
        <button class="main" type="submit" disabled={busy.value}>
          {busy.value ? 'Running…' : 'Run'}
        </button>
      </form>
      <p class="trouble" role="alert">
        {failed.value}
      </p>
      {told === null && failed.value === '' && !busy.value && (
        <p class="empty">It runs for a minute at most, and what it says is shown here when it has ended.</p>
      )}
      <div role="status">
        {told !== null && (
          <>
            <p class="quiet">{how(told)}</p>
            {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keys. */}
            <pre tabIndex={0}>
              {told.stdout}
              {told.stderr !== '' && <span class="stderr">{told.stderr}</span>}
              {told.stdout === '' && told.stderr === '' && <span class="quiet">It said nothing.</span>}
            </pre>
          </>
        )}
      </div>
    </section>
  );
}

function how({ exitCode, signal, timedOut, truncated }: Outcome): string {
  let ended = `Ended with ${exitCode}.`;
  if (timedOut) ended = 'Ended because its minute was over.';
  else if (signal !== null) ended = `Ended by ${signal}.`;
  return truncated ? `${ended} Only the beginning of its output is here.` : ended;
}
