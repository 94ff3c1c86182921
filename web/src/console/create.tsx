import { useSignal } from '@preact/signals';
import type { TargetedEvent } from 'preact';
import { api, go, look, sentence, templates } from './state.ts';

const MINUTE_S = 60;

/** Makes a sandbox of the operator's own, and shows it. */
export function Create() {
  const busy = useSignal(false);
  const failed = useSignal('');
  const submit = async (event: TargetedEvent<HTMLFormElement, Event>) => {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const image = String(fields.get('image') ?? '').trim();
    const template = String(fields.get('template') ?? '');
    const timeout = Number(fields.get('minutes')) * MINUTE_S;
    busy.value = true;
    failed.value = '';
    try {
      const order = image === '' ? { template, timeout } : { image, timeout };
      const made = await api.value?.create(order);
      await look();
      if (made !== undefined) go({ name: 'sandbox', id: made.id });
    } catch (error) {
      failed.value = sentence(error);
    } finally {
      busy.value = false;
    }
  };
  return (
    <details class="create">
      <summary>Create a sandbox</summary>
      <form onSubmit={submit}>
        <label>
          Template
          <select name="template">
            {templates.value.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        <label>
          or image
          <input name="image" placeholder="one that the engine has" autocomplete="off" spellcheck={false} />
        </label>
        <label>
          Minutes
          <input name="minutes" type="number" min="1" max="10080" value="15" required />
        </label>
        <button class="main" type="submit" disabled={busy.value}>
          {busy.value ? 'Starting…' : 'Create'}
        </button>
        <p class="trouble" role="alert">
          {failed.value}
        </p>
      </form>
    </details>
  );
}
