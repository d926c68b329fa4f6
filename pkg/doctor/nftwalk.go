package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// packet is what the rules are asked about.
type packet struct {
	in, out      string // interface, empty for the other direction
	src, dst     netip.Addr
	proto        string // tcp or udp
	sport, dport int
	state        string // of connection tracking: new or established
	// missing tells whether no route leads back to src by in, for fib expressions.
	missing truth
}

// truth is a logic of three values, because some of what a rule asks is not
// known.
type truth int8

const (
	no    truth = -1
	maybe truth = 0
	sure  truth = 1
)

func truthOf(b bool) truth {
	if b {
		return sure
	}
	return no
}

func both(a, b truth) truth { return min(a, b) }

// fate is a set of what may become of a packet.
type fate uint8

const (
	passes   fate = 1 << iota // the end of the chain, or a return
	accepted                  // by this base chain
	dropped
	rewritten // another source
)

// walk follows one packet through chains.
type walk struct {
	fw *firewall
	p  *packet
	// at is the chain that is walked, depth how deep its jumps are.
	at    *chain
	depth int
	// dropper and writer are the rules that do so for the first time, unsure what
	// is not understood.
	dropper, writer, unsure string
}

// jumps is how deep the kernel follows jumps (NFT_JUMP_STACK_SIZE).
const jumps = 16

// sees tells whether packets of the family go through the chain.
func (c *chain) sees(p *packet) bool {
	switch c.family {
	case "inet":
		return true
	case "ip":
		return p.src.Is4()
	case "ip6":
		return p.src.Is6()
	case "netdev":
		return c.dev == p.in
	}
	return false
}

// through walks the base chains of the hooks and tells what may become of the
// packet, and the chain that decides. Only with nat are chains of that type
// asked, where the first that rewrites is the last.
func (f *firewall) through(p *packet, nat bool, hooks ...string) (fate, *chain, *walk) {
	w := &walk{fw: f, p: p}
	result := accepted
	var decider *chain
	for _, hook := range hooks {
		for _, c := range f.chains {
			if c.hook != hook || (c.kind == "nat") != nat || !c.sees(p) {
				continue
			}
			one := w.chain(c)
			if one&passes != 0 {
				one &^= passes
				if c.policy == "drop" {
					one |= dropped
					if w.dropper == "" {
						w.dropper = c.String() + ", by its policy"
					}
				} else {
					one |= accepted
				}
			}
			bad := one & (dropped | rewritten)
			if bad != 0 && decider == nil {
				decider = c
			}
			if one&accepted == 0 {
				return bad, c, w
			}
			result |= bad
			if nat && w.writer == exemption && one == accepted {
				return result, decider, w
			}
		}
	}
	return result, decider, w
}

// exemption stands for a rule that keeps the source as it is, so that no other
// rule changes it.
const exemption = "exempt"

func (w *walk) chain(c *chain) fate {
	if w.depth >= jumps {
		return passes
	}
	before := w.at
	w.at = c
	w.depth++
	defer func() { w.at, w.depth = before, w.depth-1 }()
	var may fate
	for i := range c.rules {
		matched, does, leaves := w.rule(&c.rules[i])
		if matched == no {
			continue
		}
		may |= does &^ passes
		if matched == sure && (leaves || does&passes == 0) {
			return may | does
		}
		if leaves {
			may |= does
		}
	}
	return may | passes
}

// rule tells whether a rule matches, what it does then, and whether the chain
// ends with it.
func (w *walk) rule(r *fwRule) (matched truth, does fate, leaves bool) {
	matched = sure
	where := fmt.Sprintf("%s, rule with handle %d", w.at, r.handle)
	for _, one := range r.expr {
		for key, value := range one {
			var t truth
			t, does, leaves = w.statement(key, value)
			if t == maybe {
				w.unsure = where + " (" + nameOf(key, value) + ")"
			}
			if matched = both(matched, t); matched == no {
				return no, 0, false
			}
		}
		if does != 0 {
			break
		}
	}
	if does == 0 {
		does = passes
	}
	if does&dropped != 0 && w.dropper == "" {
		w.dropper = where
	}
	if does&rewritten != 0 && w.writer == "" {
		w.writer = where
	}
	return matched, does, leaves
}

// nameOf names what is not understood.
func nameOf(key string, value any) string {
	m, _ := value.(map[string]any)
	if name, ok := m["name"].(string); ok && key == "xt" {
		return "iptables match " + name
	}
	return key
}

// statement is one step of a rule: a match, or what it does (0 for nothing that
// matters).
func (w *walk) statement(key string, value any) (t truth, does fate, leaves bool) {
	m, _ := value.(map[string]any)
	switch key {
	case "match":
		return w.match(m), 0, false
	case "accept":
		return sure, accepted, false
	case "drop", "reject":
		return sure, dropped, false
	case "masquerade":
		return sure, rewritten, false
	case "snat":
		return sure, w.snat(m), false
	case "return":
		return sure, passes, true
	case "jump", "goto":
		target, _ := m["target"].(string)
		c := w.fw.chain(w.at.family, w.at.table, target)
		if c == nil {
			return maybe, 0, false
		}
		return sure, w.chain(c), key == "goto"
	case "vmap":
		return w.vmap(m)
	case "xt":
		return xt(m)
	case "counter", "log", "mangle", "notrack", "set", "map", "continue", "comment", "ct helper", "ct timeout", "flow", "meta":
		return sure, 0, false
	}
	return maybe, 0, false // limit, quota, ct count, queue, and what is newer
}

func (w *walk) snat(m map[string]any) fate {
	if text, ok := m["addr"].(string); ok && text == w.p.src.String() {
		w.writer = exemption
		return accepted
	}
	return rewritten
}

// xt is a match or a target of iptables, of which nft tells the name only.
func xt(m map[string]any) (truth, fate, bool) {
	name, _ := m["name"].(string)
	if m["type"] == "match" {
		if name == "comment" {
			return sure, 0, false
		}
		return maybe, 0, false
	}
	switch name {
	case "MASQUERADE", "SNAT", "NETMAP":
		return sure, rewritten, false
	case "REJECT", "DROP":
		return sure, dropped, false
	}
	return sure, 0, false // LOG, MARK and the like
}

func (w *walk) vmap(m map[string]any) (truth, fate, bool) {
	data := m["data"]
	elements, ok := w.elements(data)
	if !ok {
		return maybe, 0, false
	}
	value, t := w.value(m["key"])
	if t != sure {
		return t, 0, false
	}
	var may fate
	for _, element := range elements {
		pair, _ := element.([]any)
		if len(pair) != 2 {
			return maybe, 0, false
		}
		hit := w.equal(value, pair[0])
		verdict, _ := pair[1].(map[string]any)
		if hit == no {
			continue
		}
		for key, what := range verdict {
			_, does, leaves := w.statement(key, what)
			if hit == sure {
				return sure, may | does, leaves
			}
			may |= does | passes
		}
	}
	if may == 0 {
		return no, 0, false
	}
	return maybe, may, false
}

// elements are those of a set: of a named one, or as they stand there.
func (w *walk) elements(set any) ([]any, bool) {
	switch s := set.(type) {
	case string:
		name, named := strings.CutPrefix(s, "@")
		list, known := w.fw.sets[w.at.family+" "+w.at.table+" "+name]
		return list, named && known
	case map[string]any:
		list, ok := s["set"].([]any)
		return list, ok
	}
	return nil, false
}

// match compares as nft does: what a packet does not have matches nothing, not
// even by !=.
func (w *walk) match(m map[string]any) truth {
	value, t := w.value(m["left"])
	if t != sure {
		return t
	}
	right := m["right"]
	switch m["op"] {
	case "==", "in":
		if list, ok := right.([]any); ok { // flags, such as states
			return w.anyOf(value, list)
		}
		return w.equal(value, right)
	case "!=":
		if list, ok := right.([]any); ok {
			return -w.anyOf(value, list)
		}
		return -w.equal(value, right)
	case "<", ">", "<=", ">=":
		a, okA := value.(float64)
		b, okB := right.(float64)
		if !okA || !okB {
			return maybe
		}
		return truthOf(map[string]bool{"<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b}[m["op"].(string)])
	}
	return maybe
}

func (w *walk) anyOf(value any, list []any) truth {
	t := no
	for _, one := range list {
		t = max(t, w.equal(value, one))
	}
	return t
}

// ports are the ports that rules speak of, at most so many.
func (f *firewall) ports(most int) []int {
	var list []int
	var collect func(v any)
	collect = func(v any) {
		switch x := v.(type) {
		case float64:
			if n := int(x); n > 0 && n < 65536 && len(list) < most && !slices.Contains(list, n) {
				list = append(list, n)
			}
		case []any:
			for _, one := range x {
				collect(one)
			}
		case map[string]any:
			collect(x["set"])
			collect(x["range"])
		}
	}
	for _, c := range f.chains {
		for i := range c.rules {
			for _, one := range c.rules[i].expr {
				m, _ := one["match"].(map[string]any)
				left, _ := m["left"].(map[string]any)
				if payload, _ := left["payload"].(map[string]any); payload["field"] == "dport" {
					collect(m["right"])
				}
			}
		}
	}
	return list
}
