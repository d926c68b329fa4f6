package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// scalar decodes n into dst. It returns what is wrong, and whether dst is a
// scalar at all.
func scalar(n *node, dst any, tags reflect.StructTag) (problem string, isScalar bool) {
	switch d := dst.(type) {
	case *bool:
		*d = n.text == "true"
		if n.kind != kindBool {
			return "must be true or false", true
		}
	case *string:
		return textValue(n, d, tags), true
	case *Secret:
		return textValue(n, (*string)(d), tags), true
	case *int:
		return number(n, d, tags.Get("range")), true
	case *uint32:
		return number(n, d, tags.Get("range")), true
	case *time.Duration:
		return duration(n, d, tags), true
	default:
		return special(n, dst)
	}
	return "", true
}

// special is the rest of scalar: the types of networking.
func special(n *node, dst any) (problem string, isScalar bool) {
	switch d := dst.(type) {
	case *asn:
		return asNumber(n, (*uint32)(d)), true
	case *peerASN:
		return peerNumber(n, d), true
	case *peerAddress:
		return routerAddress(n, d), true
	case *netip.Addr:
		return address(n, d), true
	case *netip.Prefix:
		return prefix(n, d), true
	case *netip.AddrPort:
		return addressPort(n, d), true
	case *community:
		return oneCommunity(n, d), true
	case *LargeCommunity:
		return largeCommunity(n, d), true
	case *ExtendedCommunity:
		return extendedCommunity(n, d), true
	}
	if problem, isScalar := sourceScalar(n, dst); isScalar {
		return problem, true
	}
	return checkScalar(n, dst)
}

func textValue(n *node, d *string, tags reflect.StructTag) string {
	allowed := strings.Fields(tags.Get("oneof"))
	switch {
	case len(allowed) > 0 && (n.kind != kindText || !slices.Contains(allowed, n.text)):
		if guess := closest(n.text, allowed); guess != "" {
			return fmt.Sprintf("must be one of %s; did you mean %q?", strings.Join(allowed, ", "), guess)
		}
		return "must be one of " + strings.Join(allowed, ", ")
	case n.kind == kindMapping || n.kind == kindList:
		return "must be text, not " + n.kind.String()
	case n.kind != kindText:
		return fmt.Sprintf("must be text, not %s; put it in quotes", n.kind)
	case strings.ContainsFunc(n.text, unicode.IsControl):
		return "must not hold control characters"
	}
	*d = n.text
	return ""
}

// number decodes a decimal number within the range.
func number[T int | uint32](n *node, d *T, limits string) string {
	lowest, highest := int64(0), int64(1<<32-1)
	if low, high, ok := strings.Cut(limits, ".."); ok {
		lowest, _ = strconv.ParseInt(low, 10, 64)
		highest, _ = strconv.ParseInt(high, 10, 64)
	}
	want := fmt.Sprintf("must be a number from %d to %d", lowest, highest)
	digits := strings.TrimPrefix(n.text, "-")
	switch {
	case n.kind == kindText && digits != "" && strings.Trim(digits, "0123456789") == "":
		return want + "; remove the quotes"
	case n.kind != kindNumber:
		return want
	case strings.Trim(digits, "0123456789") != "" || len(digits) > 1 && digits[0] == '0':
		return want + ", in plain decimal digits"
	}
	value, err := strconv.ParseInt(n.text, 10, 64)
	if err != nil || value < lowest || value > highest {
		return want
	}
	*d = T(value)
	return ""
}

func duration(n *node, d *time.Duration, tags reflect.StructTag) string {
	low, high, limited := strings.Cut(tags.Get("range"), "..")
	lowest, _ := time.ParseDuration(low)
	highest, _ := time.ParseDuration(high)
	fits := func(value time.Duration) bool {
		return (!limited || lowest <= value && value <= highest) && (tags.Get("whole") == "" || value%time.Second == 0)
	}
	if n.kind == kindNumber {
		return bareNumber(n.text, fits, tags.Get("range"))
	}
	value, err := time.ParseDuration(n.text)
	switch {
	case n.kind != kindText || err != nil:
		return "must be a duration such as 250ms, 3s or 1m30s"
	case limited && (value < lowest || value > highest):
		return fmt.Sprintf("must be a duration from %s to %s", low, high)
	case !fits(value):
		return "must be a whole number of seconds"
	}
	*d = value
	return ""
}

// bareNumber says what the user may have meant by a number without a unit.
func bareNumber(text string, fits func(time.Duration) bool, limits string) string {
	var meant []string
	for _, unit := range []string{"ms", "s"} {
		if value, err := time.ParseDuration(text + unit); err == nil && fits(value) {
			meant = append(meant, strconv.Quote(text+unit))
		}
	}
	if len(meant) > 0 {
		return "a bare number is not a duration; write " + strings.Join(meant, " or ")
	}
	low, high, _ := strings.Cut(limits, "..")
	return fmt.Sprintf("a bare number is not a duration; write one from %s to %s", low, high)
}

func address(n *node, d *netip.Addr) string {
	value, err := netip.ParseAddr(n.text)
	switch {
	case err != nil:
		return "must be an IP address such as 192.0.2.1 or 2001:db8::1"
	case value.Zone() != "":
		return "must not have a zone; the interface tells it"
	case value.Is4In6():
		return fmt.Sprintf("must not be an IPv4 address inside an IPv6 one; write %s", value.Unmap())
	}
	*d = value
	return ""
}

func prefix(n *node, d *netip.Prefix) string {
	const want = "must be an address or a prefix such as 192.0.2.1 or 2001:db8::/64"
	value, err := netip.ParsePrefix(n.text)
	if !strings.Contains(n.text, "/") {
		var addr netip.Addr
		if problem := address(n, &addr); problem != "" {
			return strings.Replace(problem, "must be an IP address such as 192.0.2.1 or 2001:db8::1", want, 1)
		}
		value, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	switch {
	case err != nil:
		return want
	case value.Addr().Is4In6():
		return "must not be an IPv4 prefix inside an IPv6 one"
	case value != value.Masked():
		return fmt.Sprintf("has host bits set; write %s for the prefix or %s/%d for the one address",
			value.Masked(), value.Addr(), value.Addr().BitLen())
	}
	*d = value
	return ""
}

func addressPort(n *node, d *netip.AddrPort) string {
	value, err := netip.ParseAddrPort(n.text)
	switch {
	case err != nil:
		return "must be an IP address with a port such as 192.0.2.1:53 or [2001:db8::1]:53"
	case value.Port() == 0:
		return "must have a port from 1 to 65535"
	case value.Addr().Zone() != "" || value.Addr().Is4In6() || value.Addr().IsUnspecified() || value.Addr().IsMulticast():
		return "must be one host's address, without a zone"
	}
	*d = value
	return ""
}
