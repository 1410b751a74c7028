// A ranking as groups of keys, best group first, and what can be done to it. Pure; keys that are in no group are left
// aside, which is not the same as last.

export type Order = string[][];

const without = (order: Order, key: string): Order =>
  order.map((group) => group.filter((one) => one !== key)).filter((group) => group.length > 0);

const placeOf = (order: Order, key: string): number => order.findIndex((group) => group.includes(key));

/** Put a key last, in a place of its own or beside the last one. */
export function append(order: Order, key: string, tied: boolean): Order {
  const rest = without(order, key);
  const last = rest.at(-1);
  return tied && last !== undefined ? [...rest.slice(0, -1), [...last, key]] : [...rest, [key]];
}

export const takeOut = without;

/** Take out what was put in last: the last key of the last group. */
export function takeOutLast(order: Order): Order {
  const key = order.at(-1)?.at(-1);
  return key === undefined ? order : without(order, key);
}

/** Swap a key's place with the one above (-1) or below (1); a tied key leaves its group in that direction. */
export function move(order: Order, key: string, by: -1 | 1): Order {
  const place = placeOf(order, key);
  const group = order[place];
  if (group === undefined) return order;
  if (group.length > 1) {
    const rest = group.filter((one) => one !== key);
    const parted = by === -1 ? [[key], rest] : [rest, [key]];
    return [...order.slice(0, place), ...parted, ...order.slice(place + 1)];
  }
  const other = order[place + by];
  if (other === undefined) return order;
  const swapped = [...order];
  swapped[place] = other;
  swapped[place + by] = group;
  return swapped;
}

/** Tie a key with the place above. */
export function join(order: Order, key: string): Order {
  const place = placeOf(order, key);
  const above = order[place - 1];
  if (place < 1 || above === undefined) return order;
  const target = above[0] ?? "";
  return without(order, key).map((group) => (group.includes(target) ? [...group, key] : group));
}

/** Put a key into the group at `place`, or before it as a group of its own; `place` counts the groups without the key. */
export function drop(order: Order, key: string, place: number, tied: boolean): Order {
  const target = order[place]?.find((one) => one !== key);
  if (tied && target !== undefined) return without(order, key).map((group) => (group.includes(target) ? [...group, key] : group));
  const before = order.slice(0, place).filter((group) => group.some((one) => one !== key)).length;
  const rest = without(order, key);
  return [...rest.slice(0, before), [key], ...rest.slice(before)];
}

/** "2 > 1 = 3", best first. */
export function written(order: Order): string {
  return order.map((group) => group.join(" = ")).join(" > ");
}
