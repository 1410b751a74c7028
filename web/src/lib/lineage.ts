// The lineage as a graph that is laid out in columns by round: votes, reward model, policy, evaluation.

export interface Node {
  id: string;
  kind: "event_set" | "reward_model" | "policy" | "evaluation";
  round: number;
  values: Record<string, unknown>;
}
export interface Edge {
  source: string;
  target: string;
  kind: string;
}
export interface Placed extends Node {
  x: number;
  y: number;
}

const LANES: Record<Node["kind"], number> = { event_set: 0, reward_model: 1, policy: 2, evaluation: 3 };
const WIDE = 232;
const HIGH = 88;
export const NODE = { width: 192, height: 48 };

/** Place nodes: rounds from left to right, a lane for each kind; what shares a place goes below. An event set stands in
 * the round of the reward model that was fitted on it. */
export function placed(nodes: Node[], edges: Edge[]): Placed[] {
  const rounds = new Map(nodes.map((node) => [node.id, node.round]));
  const roundOf = (node: Node): number => {
    if (node.kind !== "event_set") return node.round;
    const fitted = edges.filter((edge) => edge.source === node.id).map((edge) => rounds.get(edge.target) ?? 0);
    return fitted.length === 0 ? 0 : Math.min(...fitted);
  };
  const columns = [...new Set(nodes.map(roundOf))].sort((a, b) => a - b);
  const rows = new Map<string, number>();
  const deepest = new Map<number, number>();
  const cells = nodes.map((node) => {
    const column = columns.indexOf(roundOf(node));
    const lane = LANES[node.kind];
    const row = rows.get(`${column}/${lane}`) ?? 0;
    rows.set(`${column}/${lane}`, row + 1);
    deepest.set(lane, Math.max(deepest.get(lane) ?? 0, row + 1));
    return { node, column, lane, row };
  });
  const above = (lane: number): number => [...deepest].filter(([one]) => one < lane).reduce((sum, [, depth]) => sum + depth, 0);
  return cells.map(({ node, column, lane, row }) => ({ ...node, x: 16 + column * WIDE, y: 16 + (above(lane) + row) * HIGH }));
}

/** Everything that `id` comes from (`back`) or that came of it. */
export function reach(id: string, edges: Edge[], back: boolean): Set<string> {
  const found = new Set<string>();
  const waiting = [id];
  for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
    for (const edge of edges) {
      const [from, to] = back ? [edge.target, edge.source] : [edge.source, edge.target];
      if (from !== at || found.has(to)) continue;
      found.add(to);
      waiting.push(to);
    }
  }
  return found;
}
