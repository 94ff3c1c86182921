import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import type { Sandbox } from './api.ts';
import { Command } from './command.tsx';
import { Files } from './files.tsx';
import { countdown, words } from './format.ts';
import { askToEnd } from './list.tsx';
import { api, go, now, rows, sentence } from './state.ts';
import { TerminalPane } from './terminal.tsx';

/** One sandbox: a terminal in it, a command, its files. */
export function SandboxView({ id }: { id: string }) {
  const sandbox = useSignal<Sandbox | null>(null);
  const failed = useSignal('');
  useEffect(() => {
    const found = api.value?.sandbox(id);
    found?.then(
      (one) => {
        sandbox.value = one;
      },
      (error) => {
        failed.value = sentence(error);
      },
    );
  }, [id, failed, sandbox]);
  const one = sandbox.value;
  const row = rows.value.find((found) => found.id === id);
  return (
    <article class="detail">
      <div class="bar">
        <a class="back" href="#list">
          Back
        </a>
        <h2>
          Sandbox <code>{id.slice(0, 8)}</code>
        </h2>
        {one !== null && (
          <p class="quiet">
            {one.template}
            {row !== undefined && `, ends in ${countdown(row.expiresAt - now.value)}`}
          </p>
        )}
        {one !== null && (
          <button type="button" onClick={() => askToEnd('sandbox', id, () => go({ name: 'list' }))}>
            End
          </button>
        )}
      </div>
      {failed.value !== '' && <p class="empty">{failed.value}</p>}
      {one !== null && one.status !== 'running' && (
        <p class="empty">
          This sandbox does not run: {one.status}
          {one.reason !== undefined && `, ${words(one.reason)}`}.
        </p>
      )}
      {one !== null && one.status === 'running' && (
        <>
          <TerminalPane id={id} />
          <div class="beside">
            <Command id={id} />
            <Files id={id} home={one.cwd} />
          </div>
        </>
      )}
    </article>
  );
}
