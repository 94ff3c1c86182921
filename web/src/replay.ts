/** Plays a recording. A file of its own, which only those fetch who want to see one. */
import type { ITheme } from '@xterm/xterm';
import { create } from 'asciinema-player';
import playerCss from 'asciinema-player/dist/bundle/asciinema-player.css?inline';
import { COLOURS } from './theme.ts';

/** Silence in a recording is cut down to this many seconds. */
const IDLE_LIMIT_S = 2;

/** The sixteen colours in the order of ECMA-48, by which the player counts them. */
const PALETTE = [
  ...(['black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white'] as const),
  ...(['brightBlack', 'brightRed', 'brightGreen', 'brightYellow'] as const),
  ...(['brightBlue', 'brightMagenta', 'brightCyan', 'brightWhite'] as const),
];

/** The player's style, in the colours of the screen. */
export const css = playerCss + Object.entries(COLOURS).map(rule).join('');

function rule([look, theme]: [string, ITheme]): string {
  const colours = PALETTE.map((name, number) => `--term-color-${number}:${theme[name]};`);
  const ground = `--term-color-foreground:${theme.foreground};--term-color-background:${theme.background};`;
  return `.frame[data-look=${look}] .asciinema-player-theme-belljar{${ground}${colours.join('')}}`;
}

/** Plays `cast`, an asciicast, in `host`. Returns what takes it away again. */
export function play(cast: string, host: HTMLElement, fontFamily: string): () => void {
  const player = create({ data: cast }, host, {
    autoPlay: true,
    controls: true,
    fit: 'both',
    idleTimeLimit: IDLE_LIMIT_S,
    terminalFontFamily: fontFamily,
    theme: 'belljar',
  });
  return () => player.dispose();
}
