// The solver `lagrangian` of bitclass3_core/multiple_choice.py, step for step: the same picks for the same problem.
//
// A problem is {groups: [{choices: [{bytes, cost}, ...]}, ...], budget}; choices rise in bytes and fall in cost.
// The multiple-choice knapsack's Lagrangian dual gives a bound and most of the answer; the bytes left over are spent; then swaps.

const sum = (values) => values.reduce((total, value) => total + value, 0);
export const bytesOf = (groups, picks) => sum(groups.map((group, i) => group.choices[picks[i]].bytes));
export const costOf = (groups, picks) => sum(groups.map((group, i) => group.choices[picks[i]].cost));

/** The steepest step from choice `at` of a group: {choice, bytes, slope}, slope being cost saved per byte; null at the last. */
function steepest(choices, at) {
  let best = null;
  for (let choice = at + 1; choice < choices.length; choice++) {
    const bytes = choices[choice].bytes - choices[at].bytes;
    const slope = (choices[at].cost - choices[choice].cost) / bytes;
    if (bytes > 0 && (best === null || slope > best.slope)) best = { choice, bytes, slope };
  }
  return best;
}

/** Moves along the groups' lower convex hulls from the smallest choices up, steepest first; equal ones round by round. */
function hullSteps(groups) {
  const rounds = [];
  groups.forEach((group, row) => {
    let flattest = Infinity;
    for (let round = 0, step = steepest(group.choices, 0); step; step = steepest(group.choices, step.choice), round++) {
      // rounding must not make a later step of a group steeper than an earlier one: the sort would swap them
      flattest = Math.min(flattest, step.slope);
      if (!(flattest > 0)) break;
      (rounds[round] ??= []).push({ row, choice: step.choice, bytes: step.bytes, slope: flattest });
    }
  });
  return rounds.flat().sort((a, b) => b.slope - a.slope);
}

/** The largest dual bound, its multiplier, and the choices on its side of the budget that fits. */
function lagrangianDual(groups, budget) {
  const picks = groups.map(() => 0);
  let room = budget - bytesOf(groups, picks);
  for (const step of hullSteps(groups)) {
    if (step.bytes > room) {
      const least = groups.map(({ choices }) => Math.min(...choices.map((c) => c.cost + step.slope * c.bytes)));
      return { bound: sum(least) - step.slope * budget, multiplier: step.slope, picks };
    }
    room -= step.bytes;
    picks[step.row] = Math.max(picks[step.row], step.choice);
  }
  return { bound: sum(groups.map(({ choices }) => Math.min(...choices.map((c) => c.cost)))), multiplier: 0, picks };
}

/** `picks` with the bytes left over spent, the move that saves most per byte first. */
function fill(groups, budget, picks) {
  picks = [...picks];
  for (let room = budget - bytesOf(groups, picks); ; ) {
    let best = null;
    groups.forEach(({ choices }, row) => {
      const now = choices[picks[row]];
      choices.forEach((choice, k) => {
        const bytes = choice.bytes - now.bytes;
        const rate = (now.cost - choice.cost) / bytes;
        if (bytes > 0 && bytes <= room && now.cost > choice.cost && (best === null || rate > best.rate)) best = { row, k, bytes, rate };
      });
    });
    if (best === null) return picks;
    picks[best.row] = best.k;
    room -= best.bytes;
  }
}

/** How many of the sorted `values` are at most `limit`. */
function countUpTo(values, limit) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The pair of `moves` that saves most within the budget, or null where none saves. */
function bestPair(groups, budget, picks, moves) {
  for (const move of moves) {
    const now = groups[move.row].choices[picks[move.row]];
    move.grown = move.bytes - now.bytes;
    move.saved = now.cost - move.cost;
  }
  const sorted = [...moves].sort((a, b) => a.grown - b.grown);
  // the move that saves most among those that grow no more than each: one look-up finds every move's best partner
  let most = 0;
  const best = sorted.map((move, i) => (move.saved >= sorted[most].saved ? (most = i) : most));
  const grown = sorted.map((move) => move.grown);
  const room = budget - bytesOf(groups, picks);
  let found = null;
  for (const move of sorted) {
    const nFit = countUpTo(grown, room - move.grown);
    const partner = sorted[best[Math.max(nFit - 1, 0)]];
    const gain = nFit > 0 && partner.row !== move.row ? move.saved + partner.saved : -Infinity;
    if (found === null || gain > found.gain) found = { gain, moves: [move, partner] };
  }
  return found !== null && found.gain > 1e-12 * costOf(groups, picks) ? found.moves : null;
}

/** `picks` improved by changing two groups at once, the best such pair each time, until none helps. */
function swapped(groups, budget, picks, dual) {
  picks = [...picks];
  const moves = groups.flatMap(({ choices }, row) => {
    const priced = choices.map((choice) => choice.cost + dual.multiplier * choice.bytes);
    const least = Math.min(...priced);
    return choices.map((choice, k) => ({ row, k, ...choice, reduced: priced[k] - least }));
  });
  for (;;) {
    const gap = costOf(groups, picks) - dual.bound;
    const pair = bestPair(groups, budget, picks, moves.filter((move) => move.reduced < gap));
    if (pair === null) return picks;
    for (const move of pair) picks[move.row] = move.k;
  }
}

/** {picks, bytes, cost, bound} of a problem; the budget must hold the smallest choices. */
export function solve({ groups, budget }) {
  const dual = lagrangianDual(groups, budget);
  const picks = swapped(groups, budget, fill(groups, budget, dual.picks), dual);
  return { picks, bytes: bytesOf(groups, picks), cost: costOf(groups, picks), bound: dual.bound };
}
