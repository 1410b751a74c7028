// Small values in the browser's storage. A browser that refuses storage loses what outlives a reload, nothing else.

export function load<T>(area: Storage, name: string, otherwise: T): T {
  try {
    const text = area.getItem(`tropism.${name}`);
    return text === null ? otherwise : (JSON.parse(text) as T);
  } catch {
    return otherwise;
  }
}

/** Returns whether it is stored. */
export function save(area: Storage, name: string, value: unknown): boolean {
  try {
    if (value === undefined) area.removeItem(`tropism.${name}`);
    else area.setItem(`tropism.${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
