package doctor

import (
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// value is what an expression of a rule gives for the packet: a string, an
// address, a number or a list of these. It is no if the packet has none, and
// maybe if that is not known.
func (w *walk) value(expr any) (any, truth) {
	m, ok := expr.(map[string]any)
	if !ok {
		return nil, maybe
	}
	for key, v := range m {
		switch key {
		case "meta":
			return w.meta(v)
		case "payload":
			return w.payload(v)
		case "ct":
			if field(v, "key") == "state" {
				return w.p.state, sure
			}
		case "fib":
			return w.fib(v)
		case "&":
			return w.masked(v)
		case "concat":
			return w.concat(v)
		}
	}
	return nil, maybe
}

func field(v any, name string) string {
	m, _ := v.(map[string]any)
	s, _ := m[name].(string)
	return s
}

func (w *walk) meta(v any) (any, truth) {
	p := w.p
	family := map[bool]string{true: "4", false: "6"}[p.src.Is4()]
	switch field(v, "key") {
	case "iifname", "iif":
		return p.in, truthOf(p.in != "")
	case "oifname", "oif":
		return p.out, truthOf(p.out != "")
	case "l4proto":
		return p.proto, sure
	case "nfproto":
		return "ipv" + family, sure
	case "protocol":
		return strings.TrimSuffix("ip"+family, "4"), sure
	case "pkttype":
		return "host", truthOf(p.in != "")
	}
	return nil, maybe
}

func (w *walk) payload(v any) (any, truth) {
	p := w.p
	protocol, name := field(v, "protocol"), field(v, "field")
	switch protocol {
	case "ip", "ip6":
		if p.src.Is4() != (protocol == "ip") {
			return nil, no
		}
		switch name {
		case "saddr":
			return p.src, sure
		case "daddr":
			return p.dst, sure
		case "protocol", "nexthdr":
			return p.proto, sure
		}
	case "tcp", "udp", "th":
		if protocol != "th" && protocol != p.proto {
			return nil, no
		}
		switch name {
		case "sport":
			return float64(p.sport), sure
		case "dport":
			return float64(p.dport), sure
		case "flags":
			return map[string]string{"new": "syn", "established": "ack"}[p.state], sure
		}
	case "icmp", "icmpv6", "udplite", "sctp", "dccp", "esp", "ah", "igmp":
		return nil, no
	}
	return nil, maybe
}

// fib is what the routing table says: of the address itself, or whether a route
// leads back by the interface that the packet came by.
func (w *walk) fib(v any) (any, truth) {
	m, _ := v.(map[string]any)
	flags, _ := m["flags"].([]any)
	has := map[string]bool{}
	for _, f := range flags {
		name, _ := f.(string)
		has[name] = true
	}
	switch {
	case m["result"] == "type" && has["daddr"] && w.p.in != "":
		return "local", sure
	case m["result"] == "oif" && has["saddr"] && has["iif"] && w.p.missing != maybe:
		return w.p.missing == no, sure
	}
	return nil, maybe
}

// masked is a set of flags of which only some count.
func (w *walk) masked(v any) (any, truth) {
	pair, _ := v.([]any)
	if len(pair) != 2 {
		return nil, maybe
	}
	value, t := w.value(pair[0])
	flag, isText := value.(string)
	if t != sure || !isText {
		return nil, min(t, maybe)
	}
	list, ok := pair[1].([]any)
	if !ok {
		list = []any{pair[1]}
	}
	if w.anyOf(flag, list) == sure {
		return flag, sure
	}
	return "", sure
}

func (w *walk) concat(v any) (any, truth) {
	list, _ := v.([]any)
	values := make([]any, len(list))
	all := sure
	for i, one := range list {
		value, t := w.value(one)
		values[i], all = value, min(all, t)
	}
	return values, all
}

// equal tells whether a value is what a rule names: a word, a number, a range, a
// network, or any of a set.
func (w *walk) equal(value, want any) truth {
	if elements, ok := w.elements(want); ok {
		return w.anyOf(value, elements)
	}
	if m, ok := want.(map[string]any); ok {
		return w.compound(value, m)
	}
	switch v := value.(type) {
	case netip.Addr:
		text, _ := want.(string)
		a, err := netip.ParseAddr(text)
		if err != nil {
			return maybe
		}
		return truthOf(a == v)
	case float64:
		return equalNumber(v, want)
	case string:
		text, ok := want.(string)
		if !ok {
			return maybe
		}
		if strings.HasSuffix(text, "*") {
			matched, err := filepath.Match(text, v)
			return truthOf(matched && err == nil)
		}
		return truthOf(text == v)
	case bool:
		b, ok := want.(bool)
		if !ok {
			return maybe
		}
		return truthOf(b == v)
	}
	return maybe
}

func equalNumber(v float64, want any) truth {
	switch n := want.(type) {
	case float64:
		return truthOf(n == v)
	case string:
		if parsed, err := strconv.ParseFloat(n, 64); err == nil {
			return truthOf(parsed == v)
		}
	}
	return maybe // the name of a service
}

func (w *walk) compound(value any, m map[string]any) truth {
	if inner, ok := m["elem"].(map[string]any); ok {
		return w.equal(value, inner["val"])
	}
	if list, ok := m["concat"].([]any); ok {
		values, isList := value.([]any)
		if !isList || len(values) != len(list) {
			return maybe
		}
		t := sure
		for i := range list {
			t = min(t, w.equal(values[i], list[i]))
		}
		return t
	}
	if inner, ok := m["prefix"].(map[string]any); ok {
		a, isAddr := value.(netip.Addr)
		base, err := netip.ParseAddr(field(inner, "addr"))
		length, _ := inner["len"].(float64)
		if !isAddr || err != nil {
			return maybe
		}
		return truthOf(netip.PrefixFrom(base, int(length)).Contains(a))
	}
	if ends, ok := m["range"].([]any); ok && len(ends) == 2 {
		return between(value, ends[0], ends[1])
	}
	return maybe
}

func between(value, low, high any) truth {
	switch v := value.(type) {
	case float64:
		a, okA := low.(float64)
		b, okB := high.(float64)
		if okA && okB {
			return truthOf(a <= v && v <= b)
		}
	case netip.Addr:
		textA, _ := low.(string)
		textB, _ := high.(string)
		a, errA := netip.ParseAddr(textA)
		b, errB := netip.ParseAddr(textB)
		if errA == nil && errB == nil {
			return truthOf(a.Compare(v) <= 0 && v.Compare(b) <= 0)
		}
	}
	return maybe
}
