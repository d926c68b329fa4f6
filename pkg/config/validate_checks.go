package config

import (
	"net/netip"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/miekg/dns"
)

func validateChecks(v VIP, r *report, path string) {
	names := map[string]int{}
	for k, c := range v.Checks {
		place := index(path, k)
		if r.ok(place + ".name") {
			first, double := names[c.Name]
			switch problem := badLabel(c.Name); {
			case c.Kind == "" && c.Name == "":
			case problem != "":
				r.add(place+".name", "%s", problem)
			case double:
				r.add(place+".name", "is the name of checks[%d] too; give each check of a VIP its own", first)
			default:
				names[c.Name] = k
			}
		}
		if r.ok(place+".interval", place+".timeout") && c.Timeout > c.Interval {
			r.add(place+".timeout", "must be at most the interval, which is %s", short(c.Interval))
		}
		if r.ok(place+".interval", place+".fast_interval") && c.FastInterval > c.Interval {
			r.add(place+".fast_interval", "must be at most the interval, which is %s", short(c.Interval))
		}
		validateSource(c, r, place)
		if c.HTTP != nil {
			validateHTTP(c.HTTP, r, place+".http")
		}
		if c.Exec != nil {
			validateExec(c.Exec, r, place+".exec")
		}
		if c.DNS != nil {
			validateDNS(c.DNS, r, place+".dns")
		}
		if c.GRPC != nil && r.ok(place+".grpc.tls") {
			validateTLS(c.GRPC.TLS, "so it needs tls: true", c.GRPC.Insecure, r, place+".grpc")
		}
		if c.ICMP != nil {
			validateTarget(c.ICMP.Address, r, place+".icmp.address")
		}
		if c.Listen != nil {
			validateTarget(c.Listen.Address, r, place+".listen.address")
		}
	}
}

// target is the address that the check's packets go to, or the zero value.
func target(c Check) netip.Addr {
	switch {
	case c.HTTP != nil && c.HTTP.URL != nil:
		addr, err := netip.ParseAddr(c.HTTP.URL.Hostname())
		if err != nil {
			return netip.Addr{} // reported already
		}
		return addr
	case c.TCP != nil:
		return c.TCP.Address.Addr()
	case c.DNS != nil:
		return c.DNS.Server.Addr()
	case c.GRPC != nil:
		return c.GRPC.Address.Addr()
	case c.ICMP != nil:
		return c.ICMP.Address
	}
	return netip.Addr{}
}

func validateSource(c Check, r *report, path string) {
	to, place := target(c), path+".source"
	if !c.Source.IsValid() || !r.ok(place) {
		return
	}
	family := "IPv6"
	if to.Is4() {
		family = "IPv4"
	}
	switch name := unusable(netip.PrefixFrom(c.Source, c.Source.BitLen())); {
	case name != "" && name != "loopback":
		r.add(place, "must be an address of this host; this one is %s", name)
	case to.IsValid() && to.Is4() != c.Source.Is4():
		r.add(place, "is of another family than the target %s; give an %s address of this host", to, family)
	}
}

// validateTarget refuses what is not one host's address.
func validateTarget(a netip.Addr, r *report, path string) {
	if !a.IsValid() || !r.ok(path) {
		return
	}
	if name := unusable(netip.PrefixFrom(a, a.BitLen())); name != "" && name != "loopback" {
		r.add(path, "must be one host's address; this one is %s", name)
	}
}

func validateHTTP(h *HTTPCheck, r *report, path string) {
	if r.ok(path+".method") && (!headerToken(h.Method) || h.Method != strings.ToUpper(h.Method)) {
		r.add(path+".method", "must be an HTTP method in capitals such as GET or HEAD")
	}
	for k, one := range h.Headers {
		if place := index(path+".headers", k) + ".name"; r.ok(place) && !headerToken(one.Name) {
			r.add(place, "must be the name of a header, without blanks and colons")
		}
	}
	if r.ok(path+".url") && h.URL != nil {
		validateTLS(h.URL.Scheme == "https", "and the URL is not https", h.Insecure, r, path)
	}
}

// validateTLS looks for keys that concern TLS in a check without, for the reason
// why, and for keys that make others useless.
func validateTLS(on bool, why string, insecure bool, r *report, path string) {
	given := func(key string) bool {
		_, there := r.lines[path+"."+key]
		return there && r.ok(path+"."+key)
	}
	switch {
	case on && insecure && given("insecure") && given("ca_file"):
		r.add(path+".ca_file", "is never used with insecure: true")
	case on:
	default:
		if insecure && given("insecure") {
			r.add(path+".insecure", "concerns certificates, %s", why)
		}
		for _, key := range []string{"ca_file", "server_name"} {
			if given(key) {
				r.add(path+"."+key, "concerns certificates, %s", why)
			}
		}
	}
}

func validateDNS(d *DNSCheck, r *report, path string) {
	if len(d.Expect) > 0 && r.ok(path+".expect", path+".expect_rcode") && d.ExpectRcode != "NOERROR" {
		r.add(path+".expect", "is never looked at with expect_rcode: %s; remove one of them", d.ExpectRcode)
	}
	for k, text := range d.Expect {
		place := index(path+".expect", k)
		if _, listed := r.lines[place]; !listed {
			place = path + ".expect" // a lone text
		}
		addr, err := netip.ParseAddr(text)
		switch {
		case !r.ok(place, path+".type"):
		case strings.TrimSpace(text) == "":
			r.add(place, "must not be empty; remove the key for any record")
		case d.Type == "A" && (err != nil || !addr.Is4()):
			r.add(place, "must be an IPv4 address, as records of type A hold")
		case d.Type == "AAAA" && (err != nil || !addr.Is6() || addr.Zone() != ""):
			r.add(place, "must be an IPv6 address, as records of type AAAA hold")
		case !recordData(d.Type, text):
			r.add(place, "must be the data of a record of type %s, as in a zone file", d.Type)
		}
	}
}

func validateExec(e *ExecCheck, r *report, path string) {
	if place := index(path+".command", 0); len(e.Command) > 0 && r.ok(place) && !filepath.IsAbs(e.Command[0]) {
		r.add(place, "must be the absolute path of a program; there is no shell and no PATH")
	}
	for k, one := range e.Env {
		if name, _, ok := strings.Cut(string(one), "="); r.ok(index(path+".env", k)) && (!ok || name == "") {
			r.add(index(path+".env", k), "must be NAME=value")
		}
	}
}

// recordData tells whether a record of the type can have the data. That of TXT
// is any text, without the quotes of a zone file.
func recordData(recordType, text string) bool {
	if recordType == "TXT" {
		return true
	}
	record, err := dns.NewRR(". 0 IN " + recordType + " " + text)
	return err == nil && record != nil
}

// hostName tells whether s is a name that a certificate can be for.
func hostName(s string) bool {
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		bad := func(c rune) bool {
			return c > unicode.MaxASCII || !unicode.IsLetter(c) && !unicode.IsDigit(c) && c != '-' && c != '_'
		}
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, bad) {
			return false
		}
	}
	return len(s) <= 253
}
