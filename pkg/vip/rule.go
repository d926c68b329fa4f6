package vip

import (
	"context"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

const sizeofRule = 12 // struct fib_rule_hdr

// rule is a policy rule. Comparable: equal values are the same rule.
type rule struct {
	family   uint8
	pref     uint32
	action   uint8        // FR_ACT_...
	src, dst netip.Prefix // invalid for any
	table    uint32       // of FR_ACT_TO_TBL
	target   uint32       // of FR_ACT_GOTO
	ipproto  uint8        // 0 for any
	sport    uint16       // with ipproto; 0 for any port
	selector
	proto uint8 // who made it
	other bool  // selects by something that rules of ours never use
}

// ruleKey is the place of a rule, which several can share.
type ruleKey struct {
	family uint8
	pref   uint32
}

func (r *rule) key() ruleKey { return ruleKey{r.family, r.pref} }

// takenFor tells whether the kernel refuses a rule because o is there (rule_exists in
// net/core/fib_rules.c): it does not compare where they jump to, nor an address by
// which the new one does not select.
func (r *rule) takenFor(o rule) bool {
	o.target = r.target
	if !r.src.IsValid() {
		o.src = r.src
	}
	if !r.dst.IsValid() {
		o.dst = r.dst
	}
	return *r == o
}

// rules dumps the policy rules of a family.
func (c *conn) rules(ctx context.Context, family uint8) ([]rule, error) {
	request := make([]byte, sizeofRule)
	request[0] = family
	return dump(ctx, c, unix.RTM_GETRULE, request, func(b []byte) (rule, bool) {
		r, ok := decodeRule(b)
		return r, ok && r.family == family
	})
}

func decodeRule(b []byte) (rule, bool) {
	if len(b) < sizeofRule {
		return rule{}, false
	}
	r := rule{family: b[0], action: b[7], table: uint32(b[4]), other: b[3] != 0 || binary.NativeEndian.Uint32(b[8:])&unix.FIB_RULE_INVERT != 0}
	for t, v := range attributes(b[sizeofRule:]) {
		switch t {
		case unix.FRA_SRC:
			r.src = netip.PrefixFrom(addrOf(v), int(b[2]))
		case unix.FRA_DST:
			r.dst = netip.PrefixFrom(addrOf(v), int(b[1]))
		case unix.FRA_PRIORITY:
			r.pref = uint32of(v)
		case unix.FRA_TABLE:
			r.table = uint32of(v)
		case unix.FRA_GOTO:
			r.target = uint32of(v)
		case unix.FRA_PROTOCOL:
			r.proto = uint8of(v)
		case unix.FRA_IP_PROTO:
			r.ipproto = uint8of(v)
		case unix.FRA_SPORT_RANGE:
			r.decodePorts(v)
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.other = r.other || i32(v) != -1
		case unix.FRA_PAD:
		default:
			r.other = !r.decode(t, v) || r.other
		}
	}
	if r.action != unix.FR_ACT_TO_TBL {
		r.table = 0
	}
	// A newer kernel may tell more of a rule than we asked for, such as the mask
	// of a port; what we made selects by nothing that we do not know.
	r.other = r.other && r.proto != Protocol
	return r, true
}

func (r *rule) decodePorts(v []byte) {
	if len(v) < 4 {
		return
	}
	r.sport = binary.NativeEndian.Uint16(v)
	r.other = r.other || binary.NativeEndian.Uint16(v[2:]) != r.sport
}

func (r *rule) body() []byte {
	b := make([]byte, sizeofRule, 80)
	b[0], b[7] = r.family, r.action
	b = appendAttr32(b, unix.FRA_PRIORITY, r.pref)
	b = appendAttr8(b, unix.FRA_PROTOCOL, r.proto)
	if r.src.IsValid() {
		b[2] = u8(r.src.Bits())
		b = appendAttr(b, unix.FRA_SRC, r.src.Addr().AsSlice())
	}
	if r.dst.IsValid() {
		b[1] = u8(r.dst.Bits())
		b = appendAttr(b, unix.FRA_DST, r.dst.Addr().AsSlice())
	}
	if r.table != 0 {
		b = appendAttr32(b, unix.FRA_TABLE, r.table)
	}
	if r.target != 0 {
		b = appendAttr32(b, unix.FRA_GOTO, r.target)
	}
	if r.ipproto != 0 {
		b = appendAttr8(b, unix.FRA_IP_PROTO, r.ipproto)
	}
	if r.sport != 0 { // the kernel refuses the port 0
		ports := binary.NativeEndian.AppendUint16(nil, r.sport)
		b = appendAttr(b, unix.FRA_SPORT_RANGE, binary.NativeEndian.AppendUint16(ports, r.sport))
	}
	return r.appendTo(b)
}

func opAddRule(r *rule) operation {
	return operation{unix.RTM_NEWRULE, unix.NLM_F_CREATE | unix.NLM_F_EXCL, r.body()}
}

func opDeleteRule(r *rule) operation {
	return operation{unix.RTM_DELRULE, 0, r.body()}
}
