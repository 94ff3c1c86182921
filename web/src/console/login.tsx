import { useRef } from 'preact/hooks';
import { Mark } from '../mark.tsx';
import { enter, refused } from './state.ts';

/** Asks for the key, once for each tab. */
export function Login() {
  const field = useRef<HTMLInputElement>(null);
  const submit = (event: Event) => {
    event.preventDefault();
    const key = field.current?.value.trim() ?? '';
    void enter(key === '' ? null : key);
  };
  return (
    <main class="login">
      <form onSubmit={submit}>
        <div class="brand">
          <Mark />
          <h1>
            Belljar <span>console</span>
          </h1>
        </div>
        <label for="key">API key</label>
        <input
          id="key"
          ref={field}
          type="password"
          autocomplete="off"
          spellcheck={false}
          placeholder="blj_…"
          aria-describedby="key-refused key-hint"
        />
        <p id="key-refused" class="trouble" role="alert">
          {refused.value}
        </p>
        <button class="main" type="submit">
          Come in
        </button>
        <p id="key-hint" class="quiet">
          It needs the scope <code>admin</code>: <code>belljar key new --name console --scope admin</code>,
          then <code>belljar reload</code>. It is kept in this tab only.
        </p>
      </form>
    </main>
  );
}
