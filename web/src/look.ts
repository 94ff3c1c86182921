/** Which colours a terminal has, and when that changes. */
import type { Theme } from './settings.ts';

export type Look = 'light' | 'dark' | 'contrast';

/** What the page and the system say. */
export interface Surroundings {
  /** The computed `color-scheme` around the terminal. */
  scheme: string;
  /** The system prefers dark pages. */
  dark: boolean;
  /** The system asks for more contrast, or chooses all colours itself. */
  contrast: boolean;
}

/**
 * `normal` is what a page says that does not care, and `light dark` one that does as the system does. A page that
 * says one of both alone has decided.
 */
export function lookFor(theme: Theme, { scheme, dark, contrast }: Surroundings): Look {
  if (theme !== 'auto') return theme;
  if (contrast) return 'contrast';
  const words = new Set(scheme.split(' '));
  if (words.has('light') !== words.has('dark')) return words.has('dark') ? 'dark' : 'light';
  return dark ? 'dark' : 'light';
}

/** Calls `changed` now, and whenever the page or the system may have changed its mind. */
export function watchSurroundings(
  host: Element,
  changed: (around: Surroundings) => void,
  signal: AbortSignal,
): void {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const contrast = matchMedia('(prefers-contrast: more), (forced-colors: active)');
  const tell = () => {
    const around = getComputedStyle(host.parentElement ?? document.documentElement);
    changed({ scheme: around.colorScheme, dark: dark.matches, contrast: contrast.matches });
  };
  for (const query of [dark, contrast]) query.addEventListener('change', tell, { signal });
  // A page's own switch sets a class or an attribute of its root, most of the time.
  const observer = new MutationObserver(tell);
  for (const root of [document.documentElement, document.body]) observer.observe(root, { attributes: true });
  signal.addEventListener('abort', () => observer.disconnect());
  tell();
}
