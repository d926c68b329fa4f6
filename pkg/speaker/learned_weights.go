package speaker

import (
	"math"
	"slices"
)

// better leaves on each interface only the best of the paths, by the order of RFC
// 4271 section 9.1.2.2; equal ones share. What a path by another interface is
// like does not matter: each interface is a way of its own.
func better(legs []LearnedLeg) {
	live := slices.Clone(legs)
	for i := range legs {
		l := &legs[i]
		if l.Used && slices.ContainsFunc(live, func(o LearnedLeg) bool { return o.Used && o.Interface == l.Interface && beats(&o, l) }) {
			l.Used, l.Why = false, "a better path by "+l.Interface+" is used"
		}
	}
}

// beats tells whether a is preferred to b.
func beats(a, b *LearnedLeg) bool {
	x, y := &a.Path, &b.Path
	switch {
	case x.LocalPref != y.LocalPref:
		return x.LocalPref > y.LocalPref
	case x.ASPathLength != y.ASPathLength:
		return x.ASPathLength < y.ASPathLength
	case x.Origin != y.Origin:
		return x.Origin < y.Origin
	case a.asn == b.asn && x.MED != y.MED:
		return x.MED < y.MED
	default:
		return a.external && !b.external
	}
}

// share gives the legs in use their weights: of what an interface has by
// interfaces[].weight its legs have equal parts; without any such weight, what
// the link-bandwidth communities say, if all have one; else they are equal.
func (p *planner) share(legs []LearnedLeg) {
	var used []*LearnedLeg
	perInterface := map[string]int{}
	for i := range legs {
		if legs[i].Weight = 0; legs[i].Used {
			used = append(used, &legs[i])
			perInterface[legs[i].Interface]++
		}
	}
	parts := make([]float64, len(used))
	weighted, known := false, true
	for _, l := range used {
		weighted = weighted || p.weight(l.Interface) > 0
		known = known && l.Path.Bandwidth > 0
	}
	for i, l := range used {
		switch {
		case weighted:
			parts[i] = float64(max(p.weight(l.Interface), 1)) / float64(perInterface[l.Interface])
		case known:
			parts[i] = float64(l.Path.Bandwidth)
		default:
			parts[i] = 1
		}
	}
	for i, w := range weights(parts) {
		used[i].Weight = w
	}
}

func (p *planner) weight(name string) int {
	if at, ok := p.byName[name]; ok {
		return p.in.Config.Interfaces[at].Weight
	}
	return 0
}

// heaviest is the highest weight that the kernel has.
const heaviest = 256

// weights are the smallest numbers from 1 to 256 that are to each other as the
// parts, which are positive, to one in a hundred; else the nearest.
func weights(parts []float64) []int {
	if len(parts) == 0 {
		return nil
	}
	smallest, largest := slices.Min(parts), slices.Max(parts)
	scale := heaviest / largest
	for k := 1.0; k*largest/smallest <= heaviest; k++ {
		if !slices.ContainsFunc(parts, func(w float64) bool {
			exact := w / smallest * k
			return math.Abs(exact-math.Round(exact)) > exact/100
		}) {
			scale = k / smallest
			break
		}
	}
	out := make([]int, len(parts))
	for i, w := range parts {
		out[i] = max(1, int(math.Round(w*scale)))
	}
	return out
}
