/** The settings of a terminal that stand in an address: those of the page at `/embed`. */
import { type Attribute, readFontSize, THEMES } from './settings.ts';

/** Longest command, in UTF-16 units: an address has no room for more anyway. */
const MAX_COMMAND = 2048;
/** As the gateway names templates. */
const TEMPLATE = /^[A-Za-z0-9._-]{1,64}$/;

const FLAGS: readonly Attribute[] = ['readonly', 'clipboard', 'images', 'screen-reader'];

/**
 * The attributes that `query` asks for. What is unknown or makes no sense is left out: an address lives longer
 * than what it was written for.
 */
export function readQuery(query: string): Map<Attribute, string> {
  const fields = new URLSearchParams(query);
  const read = new Map<Attribute, string>();
  const text = (name: Attribute, fits: (value: string) => boolean) => {
    const value = fields.get(name);
    if (value !== null && fits(value)) read.set(name, value);
  };
  text('template', (value) => TEMPLATE.test(value));
  text('theme', (value) => THEMES.some((theme) => theme === value));
  text('font-size', (value) => readFontSize(value) !== null);
  text('command', (value) => value !== '' && value.length <= MAX_COMMAND);
  for (const name of FLAGS) if (isOn(fields.get(name), false)) read.set(name, '');
  if (isOn(fields.get('autostart'), true)) read.set('autostart', '');
  return read;
}

/** `?flag`, `?flag=1` and `?flag=true` are on. */
function isOn(value: string | null, otherwise: boolean): boolean {
  if (value === null) return otherwise;
  return value === '' || value === '1' || value === 'true';
}
