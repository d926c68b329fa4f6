package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rule is a policy rule. The library's own reader leaves the action out.
type rule struct {
	family          int
	priority, table int
	action, proto   uint8
	invert          bool
	src, dst        netip.Prefix // invalid for any
	jump            int          // of an action goto
	iif, oif        string
	suppress        int  // -1 for none
	vrf             bool // for packets of VRFs
	// rest are selectors as ip-rule(8) has them.
	rest string
	// more tells that there is something about it that we have no words for.
	more bool
}

func readRules(family int) ([]rule, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
	request.AddData(nl.NewIfInfomsg(family))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	if errors.Is(err, unix.EAFNOSUPPORT) { // no IPv6 on this host (ipv6.disable=1)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := make([]rule, 0, len(messages))
	for _, m := range messages {
		r, err := decodeRule(m)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// decodeRule reads struct fib_rule_hdr and what follows it (linux/fib_rules.h).
func decodeRule(m []byte) (rule, error) {
	head := nl.DeserializeRtMsg(m)
	r := rule{
		family: int(head.Family), table: int(head.Table), action: head.Type, suppress: -1,
		invert: head.Flags&unix.FIB_RULE_INVERT != 0,
	}
	if head.Tos != 0 {
		r.rest += fmt.Sprintf(" tos %#x", head.Tos)
	}
	attributes, err := nl.ParseRouteAttr(m[head.Len():])
	if err != nil {
		return r, fmt.Errorf("decode a rule: %w", err)
	}
	mark, mask := uint32(0), uint32(0)
	for i := range attributes {
		v := attributes[i].Value
		number := func() uint32 { return binary.NativeEndian.Uint32(v) }
		switch attributes[i].Attr.Type {
		case unix.FRA_PRIORITY:
			r.priority = int(number())
		case unix.FRA_TABLE:
			r.table = int(number())
		case unix.FRA_GOTO:
			r.jump = int(number())
		case unix.FRA_PROTOCOL:
			r.proto = v[0]
		case unix.FRA_SRC:
			r.src = prefixFrom(v, head.Src_len)
		case unix.FRA_DST:
			r.dst = prefixFrom(v, head.Dst_len)
		case unix.FRA_IIFNAME:
			r.iif = strings.TrimRight(string(v), "\x00")
		case unix.FRA_OIFNAME:
			r.oif = strings.TrimRight(string(v), "\x00")
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.suppress = int(int32(number())) //nolint:gosec // -1 is none
		case unix.FRA_L3MDEV:
			r.vrf = true
		case unix.FRA_FWMARK:
			mark = number()
		case unix.FRA_FWMASK:
			mask = number()
		case unix.FRA_PAD:
		default:
			text := moreOf(attributes[i].Attr.Type, v)
			r.rest, r.more = r.rest+text, r.more || text == ""
		}
	}
	if mask != 0 {
		r.rest += fmt.Sprintf(" fwmark %#x", mark)
		if mask != ^uint32(0) {
			r.rest += fmt.Sprintf("/%#x", mask)
		}
	}
	return r, nil
}

// moreOf is a rarer selector, empty for one that is not known.
func moreOf(kind uint16, v []byte) string {
	pair := func(name string, size int) string {
		if len(v) < 2*size {
			return ""
		}
		from, to := uint32(binary.NativeEndian.Uint16(v)), uint32(binary.NativeEndian.Uint16(v[size:]))
		if size == 4 {
			from, to = binary.NativeEndian.Uint32(v), binary.NativeEndian.Uint32(v[size:])
		}
		if from == to && size == 2 {
			return fmt.Sprintf(" %s %d", name, from)
		}
		return fmt.Sprintf(" %s %d-%d", name, from, to)
	}
	switch kind {
	case unix.FRA_UID_RANGE:
		return pair("uidrange", 4)
	case unix.FRA_SPORT_RANGE:
		return pair("sport", 2)
	case unix.FRA_DPORT_RANGE:
		return pair("dport", 2)
	case unix.FRA_IP_PROTO:
		return " ipproto " + strconv.Itoa(int(v[0]))
	}
	return ""
}

func prefixFrom(v []byte, bits uint8) netip.Prefix {
	a, _ := netip.AddrFromSlice(v)
	return netip.PrefixFrom(a, int(bits))
}

// selector is the rule as the arguments of ip-rule(8), without its priority.
func (r *rule) selector() string {
	s := ""
	if r.invert {
		s = "not "
	}
	if r.src.IsValid() {
		s += "from " + r.src.String()
	} else {
		s += "from all"
	}
	if r.dst.IsValid() {
		s += " to " + r.dst.String()
	}
	if r.iif != "" {
		s += " iif " + r.iif
	}
	if r.oif != "" {
		s += " oif " + r.oif
	}
	return s + r.rest + r.does()
}

func (r *rule) does() string {
	switch r.action {
	case unix.FR_ACT_TO_TBL:
		s := " lookup " + strconv.Itoa(r.table)
		if r.suppress >= 0 {
			s += " suppress_prefixlength " + strconv.Itoa(r.suppress)
		}
		return s
	case unix.FR_ACT_GOTO:
		return " goto " + strconv.Itoa(r.jump)
	case unix.FR_ACT_BLACKHOLE:
		return " blackhole"
	case unix.FR_ACT_UNREACHABLE:
		return " unreachable"
	case unix.FR_ACT_PROHIBIT:
		return " prohibit"
	}
	return " nop"
}
