import { useSignal } from '@preact/signals';
import { FitAddon } from '@xterm/addon-fit';
import { Terminal } from '@xterm/xterm';
import { useEffect, useRef } from 'preact/hooks';
import { COLOURS } from '../theme.ts';
import type { Api } from './api.ts';
import { api, sentence } from './state.ts';

/** Output that waits to be drawn, bytes. Beyond it the program is faster than this screen, and no end is near. */
const MAX_PENDING = 8 * 1024 * 1024;
/** A window being dragged gives a new size every frame; the program needs the last one. */
const RESIZE_MS = 100;

const FONT = 'ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';

/** A terminal of the operator's own in a sandbox. It ends with the view. */
export function TerminalPane({ id }: { id: string }) {
  const host = useRef<HTMLDivElement>(null);
  const over = useSignal('');
  const attempt = useSignal(0);
  const number = attempt.value;
  useEffect(() => {
    const asked = api.value;
    if (asked === null || host.current === null) return;
    over.value = '';
    return open(asked, id, host.current, (reason) => {
      over.value = reason;
    });
  }, [id, number, over]);
  return (
    <section class="pane" aria-label="Terminal">
      <div ref={host} class="screen" />
      <p class="quiet">
        {over.value === '' ? (
          'Shift-Esc leaves the terminal for the rest of the page.'
        ) : (
          <>
            {over.value}{' '}
            <button
              type="button"
              onClick={() => {
                attempt.value += 1;
              }}
            >
              Open another
            </button>
          </>
        )}
      </p>
    </section>
  );
}

/** Opens a terminal in `host`. Returns what closes it again. */
function open(asked: Api, id: string, host: HTMLElement, ended: (reason: string) => void): () => void {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const screen = new Terminal({
    cursorBlink: !matchMedia('(prefers-reduced-motion: reduce)').matches,
    fontFamily: FONT,
    fontSize: 13,
    lineHeight: 1.15,
    screenReaderMode: false,
    scrollback: 5000,
  });
  const fit = new FitAddon();
  screen.loadAddon(fit);
  const paint = () => {
    screen.options.theme = COLOURS[dark.matches ? 'dark' : 'light'];
    screen.options.minimumContrastRatio = dark.matches ? 1 : 4.5;
  };
  paint();
  dark.addEventListener('change', paint);
  screen.open(host);
  fit.fit();
  screen.attachCustomKeyEventHandler((event) => {
    if (event.key !== 'Escape' || !event.shiftKey) return true;
    // Into the page, where Tab goes on.
    document.querySelector<HTMLElement>('.back')?.focus();
    return false;
  });

  let closed = false;
  let terminal: string | null = null;
  let socket: WebSocket | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const observer = new ResizeObserver(() => fit.fit());
  observer.observe(host);
  screen.onResize(({ cols, rows }) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (terminal !== null) void asked.resizeTerminal(id, terminal, cols, rows).catch(() => {});
    }, RESIZE_MS);
  });
  const encoder = new TextEncoder();
  screen.onData((data) => {
    if (socket?.readyState === WebSocket.OPEN) socket.send(encoder.encode(data));
  });

  const join = async () => {
    try {
      terminal = await asked.openTerminal(id, screen.cols, screen.rows);
      if (closed) {
        // The view was gone before the answer.
        await asked.closeTerminal(id, terminal);
        return;
      }
      socket = asked.terminal(id, terminal);
      socket.binaryType = 'arraybuffer';
      let pending = 0;
      let flooded = false;
      socket.onmessage = ({ data }) => {
        if (flooded) return;
        const bytes = new Uint8Array(data as ArrayBuffer);
        pending += bytes.length;
        flooded = pending > MAX_PENDING;
        if (flooded) socket?.close();
        else
          screen.write(bytes, () => {
            pending -= bytes.length;
          });
      };
      socket.onclose = ({ code }) => {
        if (closed) return;
        if (code === 1001) terminal = null;
        screen.options.disableStdin = true;
        if (flooded) ended('Its program prints faster than this page can show.');
        else ended(code === 1000 ? 'The shell has ended.' : 'The terminal is gone.');
      };
      screen.focus();
    } catch (error) {
      if (!closed) ended(sentence(error));
    }
  };
  void join();

  return () => {
    closed = true;
    clearTimeout(timer);
    observer.disconnect();
    dark.removeEventListener('change', paint);
    socket?.close();
    // A sandbox that is gone has taken its terminals with it.
    if (terminal !== null) void asked.closeTerminal(id, terminal).catch(() => {});
    screen.dispose();
  };
}
