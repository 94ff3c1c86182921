/** The API's description as the page reads it: OpenAPI 3.1, as far as it is shown. Pure. */

export interface Schema {
  $ref?: string;
  type?: string | string[];
  format?: string;
  description?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  additionalProperties?: Schema | boolean;
  oneOf?: Schema[];
  anyOf?: Schema[];
  allOf?: Schema[];
  enum?: unknown[];
  const?: unknown;
  default?: unknown;
  examples?: unknown[];
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
  pattern?: string;
}

interface Parameter {
  name: string;
  in: string;
  required?: boolean;
  description?: string;
  schema?: Schema;
}

type Content = Record<string, { schema?: Schema }>;

interface RawOperation {
  operationId?: string;
  tags?: string[];
  summary?: string;
  description?: string;
  parameters?: Parameter[];
  requestBody?: { required?: boolean; description?: string; content?: Content };
  responses?: Record<string, { description?: string; content?: Content }>;
}

/** How a key is presented. */
export interface Scheme {
  type: string;
  scheme?: string;
  in?: string;
  name?: string;
}

export interface Document {
  info: { title: string; version: string; description?: string };
  servers?: { url: string }[];
  /** Names of `securitySchemes`, the best first; an empty one: it goes without. */
  security?: Record<string, unknown>[];
  tags?: { name: string; description?: string }[];
  paths: Record<string, Record<string, unknown>>;
  components?: {
    schemas?: Record<string, Schema>;
    securitySchemes?: Record<string, Scheme>;
  };
}

/** What is sent or answered, in one content type. */
export interface Media {
  type: string;
  schema: Schema | null;
}

export interface Answer {
  status: string;
  description: string;
  media: Media[];
}

export interface Operation {
  /** What a link to it ends with, after `#`. */
  id: string;
  method: string;
  path: string;
  tag: string;
  summary: string;
  description: string;
  parameters: Parameter[];
  body: { required: boolean; description: string; media: Media[] } | null;
  /** Those for what was asked for, before those that say why not. */
  answers: Answer[];
}

export interface Group {
  name: string;
  description: string;
  operations: Operation[];
}

const METHODS = ['get', 'post', 'put', 'patch', 'delete', 'head', 'options', 'trace'];
/** Of an operation that has none. */
const OTHER = 'other';

/** The operations by their first tag, in the order in which the document has the tags. */
export function groups(document: Document): Group[] {
  const found = new Map<string, Group>();
  const group = (name: string, description = '') => {
    const known = found.get(name) ?? { name, description, operations: [] };
    found.set(name, known);
    return known;
  };
  for (const { name, description } of document.tags ?? []) group(name, description);
  for (const [path, item] of Object.entries(document.paths)) {
    for (const method of METHODS) {
      const raw = item[method] as RawOperation | undefined;
      if (raw === undefined) continue;
      const shared = (item.parameters ?? []) as Parameter[];
      const operation = read(path, method, raw, shared);
      group(operation.tag).operations.push(operation);
    }
  }
  return [...found.values()].filter(({ operations }) => operations.length > 0);
}

function read(path: string, method: string, raw: RawOperation, shared: Parameter[]): Operation {
  const own = raw.parameters ?? [];
  const overridden = ({ name, in: place }: Parameter) =>
    own.some((one) => one.name === name && one.in === place);
  const answers = Object.entries(raw.responses ?? {}).map(([status, answer]) => ({
    status,
    description: answer.description ?? '',
    media: media(answer.content),
  }));
  const { requestBody: body } = raw;
  return {
    id: raw.operationId ?? `${method}${path.replace(/[^A-Za-z0-9]+/g, '-')}`,
    method: method.toUpperCase(),
    path,
    tag: raw.tags?.[0] ?? OTHER,
    summary: raw.summary ?? `${method.toUpperCase()} ${path}`,
    description: raw.description ?? '',
    parameters: [...shared.filter((one) => !overridden(one)), ...own],
    body:
      body === undefined
        ? null
        : {
            required: body.required === true,
            description: body.description ?? '',
            media: media(body.content),
          },
    answers: answers.sort((a, b) => a.status.localeCompare(b.status)),
  };
}

function media(content: Content = {}): Media[] {
  return Object.entries(content).map(([type, { schema }]) => ({ type, schema: schema ?? null }));
}

/** Whether it is what was asked for, and not why it was not done. */
export function isGood({ status }: Answer): boolean {
  return /^[123]/.test(status);
}

const HERE = '#/components/schemas/';

/** The name of what a schema points to; `null` if it stands for itself. */
export function refersTo({ $ref }: Schema): string | null {
  return $ref?.startsWith(HERE) ? $ref.slice(HERE.length) : null;
}

/**
 * The address that the operations' paths go on from. A gateway may be served below a path, and its description
 * does not know: its addresses are taken from `page`, where this page is, and not from the host's root.
 */
export function root(document: Document, page: string): string {
  const url = document.servers?.[0]?.url ?? '';
  const below = /^[a-z]+:/i.test(url) ? url : url.replace(/^\/+/, '');
  return new URL(below, new URL('.', page)).href.replace(/\/+$/, '');
}
