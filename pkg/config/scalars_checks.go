package config

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/miekg/dns"
)

// nameServer is a host's address with a port, 53 if there is none.
type nameServer struct{ netip.AddrPort }

// domainName is fully qualified.
type domainName string

// recordType is a DNS type that a record can have, in capitals.
type recordType string

// rcode is a DNS response code without extension, in capitals.
type rcode string

// checkSource is an address, or the VIP's.
type checkSource struct {
	addr netip.Addr
	vip  bool
}

// checkScalar is the rest of scalar: the types of checks.
func checkScalar(n *node, dst any) (problem string, isScalar bool) {
	switch d := dst.(type) {
	case *StatusRange:
		return statusRange(n, d), true
	case *url.URL:
		return checkURL(n, d), true
	case *nameServer:
		return serverAddress(n, d), true
	case *domainName:
		return queryName(n, d), true
	case *recordType:
		return queryType(n, d), true
	case *rcode:
		return responseCode(n, d), true
	case *checkSource:
		d.vip = n.text == "vip"
		if d.vip {
			return "", true
		}
		return strings.Replace(address(n, &d.addr), "must be an IP address", "must be vip or an IP address", 1), true
	}
	return "", false
}

func statusRange(n *node, d *StatusRange) string {
	low, high, isRange := strings.Cut(n.text, "-")
	if !isRange {
		high = low
	}
	lowest, err1 := strconv.Atoi(low)
	highest, err2 := strconv.Atoi(high)
	if err1 != nil || err2 != nil || lowest < 100 || highest > 599 || lowest > highest || n.kind > kindNumber {
		return `must be a status code from 100 to 599 or a range such as "200-399"`
	}
	*d = StatusRange{Min: lowest, Max: highest}
	return ""
}

func checkURL(n *node, d *url.URL) string {
	value, err := url.Parse(n.text)
	if err != nil || n.kind != kindText || value.Scheme != "http" && value.Scheme != "https" || value.Host == "" {
		return "must be a URL such as http://192.0.2.1:8080/healthz"
	}
	if value.User != nil {
		return "must not hold a user or a password; use headers"
	}
	host, err := netip.ParseAddr(value.Hostname())
	if err != nil || host.Zone() != "" || host.Is4In6() || host.IsUnspecified() || host.IsMulticast() {
		return "must have an IP address as host, so that one family is checked; give the name as the header Host"
	}
	if port := value.Port(); port != "" || strings.HasSuffix(value.Host, ":") {
		if p, err := strconv.Atoi(port); err != nil || p < 1 || p > 65535 {
			return "must have a port from 1 to 65535"
		}
	}
	*d = *value
	return ""
}

func serverAddress(n *node, d *nameServer) string {
	if addr, err := netip.ParseAddr(n.text); err == nil {
		// The port's range and what is no host's address are addressPort's to judge.
		n = &node{kind: n.kind, text: netip.AddrPortFrom(addr, 53).String()}
	}
	return strings.Replace(addressPort(n, &d.AddrPort), "must be an IP address with a port such as 192.0.2.1:53 or [2001:db8::1]:53",
		"must be an IP address, or one with a port such as 192.0.2.1:53 or [2001:db8::1]:53", 1)
}

func queryName(n *node, d *domainName) string {
	_, isName := dns.IsDomainName(n.text)
	switch {
	case n.kind != kindText:
		return "must be text, not " + n.kind.String() + "; put a domain name in quotes"
	case strings.ContainsFunc(n.text, func(c rune) bool { return c > unicode.MaxASCII }):
		return "must be in ASCII; write an international name as the DNS has it, with xn--"
	case !isName || strings.ContainsFunc(n.text, func(c rune) bool { return c <= ' ' || c == unicode.MaxASCII || strings.ContainsRune("/:@", c) }):
		return "must be a domain name such as example.org, with at most 63 bytes between dots and 255 in all"
	}
	*d = domainName(dns.Fqdn(n.text))
	return ""
}

func queryType(n *node, d *recordType) string {
	capitals := strings.ToUpper(n.text)
	switch code, known := dns.StringToType[capitals]; {
	case n.kind != kindText || !known:
		return "must be the type of a record such as A, AAAA, SOA, NS, MX, TXT or SRV"
	case code == dns.TypeOPT || code >= 128 && code <= 255 || code == dns.TypeNone || code == dns.TypeReserved: // RFC 6895 section 3.1
		return "is a type for queries only, which no record has; name the type of a record such as A or SOA"
	case capitals != n.text:
		return "must be in capitals; write " + capitals
	}
	*d = recordType(n.text)
	return ""
}

func responseCode(n *node, d *rcode) string {
	var names []string
	for code := dns.RcodeSuccess; code <= dns.RcodeNotZone; code++ {
		names = append(names, dns.RcodeToString[code])
	}
	if n.kind != kindText || !slices.Contains(names, n.text) {
		return "must be one of " + strings.Join(names, ", ")
	}
	*d = rcode(n.text)
	return ""
}
