import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import type { Watch } from './api.ts';
import { askToEnd } from './list.tsx';
import { api, base, go, rows, sentence } from './state.ts';

/** A visitor's terminal, to look at. The visitor sees that somebody is there. */
export function WatchView({ id }: { id: string }) {
  const host = useRef<HTMLDivElement>(null);
  const failed = useSignal('');
  useEffect(() => {
    const asked = api.value;
    if (asked === null) return;
    let left = false;
    let way: Watch | null = null;
    const element = document.createElement('belljar-terminal');
    const stop = () => {
      if (way !== null) void asked.stopWatching(way).catch(() => {});
      way = null;
    };
    const begin = async () => {
      try {
        way = await asked.watch(id);
        if (left) {
          stop();
          return;
        }
        element.setAttribute('src', base);
        // Where the element would go on with a terminal of its own, there is the list.
        element.addEventListener('leave', () => go({ name: 'list' }));
        host.current?.append(element);
        element.watch({ session: way.session, token: way.token });
      } catch (error) {
        failed.value = sentence(error);
      }
    };
    void begin();
    addEventListener('pagehide', stop);
    return () => {
      left = true;
      removeEventListener('pagehide', stop);
      element.remove();
      stop();
    };
  }, [id, failed]);
  const row = rows.value.find((found) => found.id === id);
  return (
    <article class="detail">
      <div class="bar">
        <a class="back" href="#list">
          Back
        </a>
        <h2>
          Session <code>{id.replace(/^sess_/, '').slice(0, 8)}</code>
        </h2>
        <p class="quiet">
          {row !== undefined && `${row.who}, ${row.template}`}. The visitor sees that somebody watches.
        </p>
        {row !== undefined && !row.over && (
          <button type="button" onClick={() => askToEnd('session', id)}>
            End
          </button>
        )}
      </div>
      {failed.value !== '' && <p class="empty">{failed.value}</p>}
      <div ref={host} class="watched" />
    </article>
  );
}
