/** What a schema says, in the words of the page: references followed, as far as people read. Pure. */
import { type Document, refersTo, type Schema } from './spec.ts';

/** How deep it goes. Nobody reads further, and a schema may go in circles. */
const MAX_DEPTH = 6;

export interface Shape {
  /** `integer`, `string (date-time) or null`, `array of Sandbox`. */
  type: string;
  description: string;
  /** Bounds, default, example: each a few words. */
  facts: string[];
  /** All that it may be, if there are only so many. */
  values: string[];
  /** Of an object, or of what an array or a map holds. */
  fields: Field[];
  /** One of these, each with something to say. */
  variants: Shape[];
}

export interface Field {
  name: string;
  required: boolean;
  shape: Shape;
}

/** How `schema` is shown. What stands `above` it is not shown again inside. */
export function shape(document: Document, schema: Schema, above: readonly string[] = [], depth = 0): Shape {
  const inner = (one: Schema) => shape(document, one, above, depth + 1);
  const name = refersTo(schema);
  if (name !== null) return followed(document, schema, name, above, depth);
  const own = { description: schema.description ?? '', facts: facts(schema) };
  const none: Shape = { type: 'anything', values: [], fields: [], variants: [], ...own };
  if (depth > MAX_DEPTH) return { ...none, type: kinds(schema).join(' or ') || 'object' };

  const choices = schema.oneOf ?? schema.anyOf;
  if (choices !== undefined) return adds(choice(choices.map((one) => [one, inner(one)])), own);
  if (schema.allOf !== undefined) {
    const parts = schema.allOf.map(inner);
    const [only] = parts;
    if (parts.length === 1 && only !== undefined && schema.properties === undefined) return adds(only, own);
    const fields = [...parts, bare(schema, inner)].flatMap((part) => part.fields);
    return { ...none, type: 'object', fields: ordered(fields) };
  }
  return { ...none, ...bare(schema, inner), ...own };
}

function followed(
  document: Document,
  schema: Schema,
  name: string,
  above: readonly string[],
  depth: number,
): Shape {
  const target = document.components?.schemas?.[name];
  const own = { description: schema.description ?? '', facts: facts(schema) };
  if (target === undefined || above.includes(name)) {
    return { type: name, values: [], fields: [], variants: [], ...own };
  }
  const found = shape(document, target, [...above, name], depth);
  // A name tells more than `object`, and less than `string`.
  const type = found.fields.length > 0 ? name : found.type;
  return adds({ ...found, type }, own);
}

/** One of several: in a word where that is all there is to say. */
function choice(choices: [Schema, Shape][]): Shape {
  const real = choices.filter(([{ type }]) => type !== 'null').map(([, shape]) => shape);
  const mayBeNull = real.length < choices.length;
  const [only] = real;
  if (real.length === 1 && only !== undefined) {
    return mayBeNull ? { ...only, type: `${only.type} or null` } : only;
  }
  const tells = (one: Shape) =>
    one.description !== '' || one.fields.length + one.variants.length + one.values.length > 0;
  const types = [...new Set(real.map(({ type }) => type)), ...(mayBeNull ? ['null'] : [])];
  return {
    type: types.join(' or '),
    description: '',
    facts: [],
    values: [],
    fields: [],
    variants: real.some(tells) ? real : [],
  };
}

/** A schema may say more of what it points to; its own description is the nearer one. */
function adds(shape: Shape, { description, facts }: Pick<Shape, 'description' | 'facts'>): Shape {
  return { ...shape, description: description || shape.description, facts: [...shape.facts, ...facts] };
}

/** Those that must be there first. */
function ordered(fields: Field[]): Field[] {
  return fields.sort((a, b) => Number(b.required) - Number(a.required));
}

/** Without what it is combined with. */
function bare(schema: Schema, inner: (one: Schema) => Shape): Shape {
  const shape: Shape = {
    type: '',
    description: '',
    facts: [],
    values: (schema.enum ?? ('const' in schema ? [schema.const] : [])).map(written),
    fields: [],
    variants: [],
  };
  const types = kinds(schema);
  const { items, additionalProperties: rest } = schema;
  const held = items ?? (typeof rest === 'object' ? rest : null);
  if (schema.properties !== undefined) {
    const fields = Object.entries(schema.properties).map(([name, one]) => ({
      name,
      required: schema.required?.includes(name) ?? false,
      shape: inner(one),
    }));
    shape.fields = ordered(fields);
  } else if (held !== null) {
    const { type, values, fields, variants } = inner(held);
    const at = types.findIndex((one) => one === 'array' || one === 'object');
    types[Math.max(0, at)] = `${items === undefined ? 'map' : 'array'} of ${type}`;
    Object.assign(shape, { values, fields, variants });
  }
  shape.type = types.join(' or ') || 'anything';
  return shape;
}

/** `string (date-time)`, `null`: its types. How wide a number is, is no news to those who write JSON. */
function kinds({ type, format, properties }: Schema): string[] {
  const types = typeof type === 'string' ? [type] : (type ?? (properties === undefined ? [] : ['object']));
  return types.map((one) => (one === 'string' && format !== undefined ? `string (${format})` : one));
}

function facts(schema: Schema): string[] {
  const { minimum, maximum, minLength, maxLength, minItems, maxItems, pattern } = schema;
  const said = [
    between(minimum, maximum, ''),
    between(minLength, maxLength, ' characters'),
    between(minItems, maxItems, ' items'),
    pattern === undefined ? '' : `as ${pattern}`,
    // Absent and `null` are the same here.
    (schema.default ?? null) === null ? '' : `default ${written(schema.default)}`,
    schema.examples === undefined ? '' : `such as ${schema.examples.map(written).join(', ')}`,
  ];
  return said.filter((fact) => fact !== '');
}

function between(least: number | undefined, most: number | undefined, what: string): string {
  if (least !== undefined && most !== undefined) return `${least} to ${most}${what}`;
  if (least !== undefined) return `at least ${least}${what}`;
  return most === undefined ? '' : `at most ${most}${what}`;
}

function written(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
