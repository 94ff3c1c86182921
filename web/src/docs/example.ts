/** A request to try: what stands in a shell. Pure. */
import { type Document, isGood, type Media, type Operation, refersTo, type Schema } from './spec.ts';

/** Where the shell has the key. */
const KEY = 'Authorization: Bearer $BELLJAR_API_KEY';
/** As deep as an example goes. */
const MAX_DEPTH = 6;

/** What people would write, by the names of fields and parameters. */
const LIKELY: Record<string, unknown> = {
  code: 'print(1 + 1)',
  cols: 80,
  command: 'echo hello',
  dockerfile: 'FROM debian:bookworm-slim',
  from: 'old.txt',
  name: 'mine',
  path: 'hello.txt',
  pattern: '**/*.txt',
  rows: 24,
  signal: 'SIGINT',
  template: 'base',
  timeout: 600,
  to: 'new.txt',
};
/** Where nothing has to be there, an example says these. */
const TELLING = ['template', 'timeout', 'command', 'cols', 'rows'];
/** A directory, where `path` names one. */
const DIRECTORIES = new Set([
  'listFiles',
  'findFiles',
  'watchFiles',
  'makeDirectory',
  'unpackArchive',
  'readArchive',
]);

export interface Example {
  /** `curl`, or the address of a WebSocket, which curl does not speak. */
  kind: 'curl' | 'address';
  text: string;
}

/** How `operation` is asked for at `root`. */
export function example(document: Document, operation: Operation, root: string): Example {
  const url = `${root}${address(operation)}`;
  if (operation.answers.some(({ status }) => status === '101')) {
    return { kind: 'address', text: url.replace(/^http/, 'ws') };
  }
  const parts = [
    operation.method === 'GET' ? '' : `-X ${operation.method}`,
    `"${url}"`,
    `-H "${KEY}"`,
    ...headers(operation),
    ...body(document, operation.body?.media[0]),
  ];
  // What comes piece by piece is shown so; what may be no text goes into a file.
  const good = operation.answers.filter(isGood).flatMap(({ media }) => media.map(({ type }) => type));
  const streams = good.length > 0 && good.every((type) => type === 'text/event-stream');
  const flags = streams ? ' -N' : '';
  if (good.includes('application/x-tar')) parts.push('-o archive.tar');
  return { kind: 'curl', text: `curl${flags} \\\n  ${parts.filter((part) => part !== '').join(' \\\n  ')}` };
}

/** The path, with what must be there: places in it as variables of the shell. */
function address({ id, path, parameters }: Operation): string {
  const filled = path.replace(
    /\{([^}]+)\}/g,
    (_, name: string) => `$${name.toUpperCase().replace(/\W/g, '_')}`,
  );
  const query = parameters
    .filter(({ in: place, required }) => place === 'query' && required === true)
    .map(({ name, schema }) => {
      const value = name === 'path' && DIRECTORIES.has(id) ? 'work' : (LIKELY[name] ?? plain(schema));
      return `${encodeURIComponent(name)}=${encodeURIComponent(String(value))}`;
    });
  return query.length === 0 ? filled : `${filled}?${query.join('&')}`;
}

function headers({ parameters }: Operation): string[] {
  const needed = parameters.filter(({ in: place, required }) => place === 'header' && required === true);
  return needed.map(({ name, schema }) => `-H ${quoted(`${name}: ${plain(schema)}`)}`);
}

function plain(schema: Schema = {}): unknown {
  return schema.examples?.[0] ?? schema.default ?? schema.enum?.[0] ?? '…';
}

function body(document: Document, media: Media | undefined): string[] {
  if (media === undefined) return [];
  const { type, schema } = media;
  if (type === 'application/json') {
    const value = schema === null ? {} : sample(document, schema);
    return [`-H ${quoted(`Content-Type: ${type}`)}`, `-d ${quoted(JSON.stringify(value))}`];
  }
  if (type === 'multipart/form-data') {
    const value = schema === null ? {} : sample(document, schema);
    return Object.keys(value as object).map((name) =>
      name === 'file' ? '-F file=@hello.txt' : `-F ${quoted(`${name}=${LIKELY[name] ?? '…'}`)}`,
    );
  }
  const file = type === 'application/x-tar' ? 'archive.tar' : 'hello.txt';
  return [`-H ${quoted(`Content-Type: ${type}`)}`, `--data-binary @${file}`];
}

/** A value of this schema: what must be there, and what tells what it is for. */
export function sample(document: Document, schema: Schema, name = '', depth = 0): unknown {
  const target = refersTo(schema);
  if (target !== null && depth <= MAX_DEPTH) {
    const found = document.components?.schemas?.[target];
    return found === undefined ? null : sample(document, found, name, depth + 1);
  }
  const inner = (one: Schema, of = name) => sample(document, one, of, depth + 1);
  if (schema.properties === undefined && schema.allOf === undefined && name in LIKELY) return LIKELY[name];
  const given = schema.examples?.[0] ?? schema.default ?? schema.enum?.[0] ?? schema.const;
  if (given !== undefined && given !== null) return given;
  if (depth > MAX_DEPTH) return null;

  const choices = (schema.oneOf ?? schema.anyOf)?.filter(({ type }) => type !== 'null');
  const [first] = choices ?? [];
  if (first !== undefined) return inner(first);
  if (schema.allOf !== undefined)
    return Object.assign({}, ...[...schema.allOf].reverse().map((one) => inner(one)));
  const type = [schema.type].flat().find((one) => one !== 'null');
  if (type === 'object' || schema.properties !== undefined) {
    const all = Object.entries(schema.properties ?? {});
    const needed = all.filter(([field]) => schema.required?.includes(field));
    const telling = all.filter(([field]) => TELLING.includes(field));
    const chosen = needed.length > 0 ? needed : telling;
    return Object.fromEntries(chosen.map(([field, one]) => [field, inner(one, field)]));
  }
  if (type === 'array') return schema.items === undefined ? [] : [inner(schema.items)];
  if (type === 'integer' || type === 'number') return schema.minimum ?? 1;
  if (type === 'boolean') return true;
  return '…';
}

/** For a shell: as it is. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
