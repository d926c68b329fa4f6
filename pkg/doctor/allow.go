package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// allow puts rules that let the packets pass at the head of the chain.
func allow(f *Finding, c *chain, list []*asked) {
	if c.table == "firewalld" {
		f.Command = "# let firewalld allow it, as by"
		for _, q := range list {
			port := fmt.Sprintf("firewall-cmd --permanent --add-port=%d/%s", q.dport, q.proto)
			if !strings.Contains(f.Command, port) {
				f.Command += "\n" + port
			}
		}
		f.Command += "\nfirewall-cmd --reload"
		return
	}
	var do, undo [][]string
	for _, q := range list {
		if c.name == strings.ToUpper(c.name) && (c.family == "ip" || c.family == "ip6") {
			program := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[c.family]
			words := slices.Concat([]string{"-t", c.table, "-I", c.name}, q.iptables(), []string{"-m", "comment", "--comment", fwMark, "-j", "ACCEPT"})
			back := slices.Clone(words)
			back[2] = "-D"
			do, undo = append(do, append([]string{program}, words...)), append(undo, append([]string{program}, back...))
			continue
		}
		words := slices.Concat([]string{"nft", "insert", "rule"}, c.words(), q.nft(), []string{"accept", "comment", strconv.Quote(fwMark)})
		do = append(do, words)
	}
	commands(f, do, undo)
	if len(undo) == 0 {
		where := strings.Join(c.words(), " ")
		f.Undo = fmt.Sprintf(`for h in $(nft -a list chain %s | sed -n 's/.*comment "%s".* handle //p'); do nft delete rule %s handle $h; done`, where, fwMark, where)
	}
}

// nft are the words that select the packet. Names are in quotes, for nft takes one
// such as 10g1 for a number.
func (q *asked) nft() []string {
	family := map[bool]string{true: "ip", false: "ip6"}[q.src.Is4()]
	var words []string
	if q.packet.in != "" {
		words = append(words, "iifname", strconv.Quote(q.packet.in))
	}
	if q.out != "" {
		words = append(words, "oifname", strconv.Quote(q.out))
	}
	if q.src != stranger(q.src.Is4()) {
		words = append(words, family, "saddr", q.src.String())
	}
	words = append(words, family, "daddr", q.dst.String())
	if q.sport != anyPort {
		return append(words, q.proto, "sport", strconv.Itoa(q.sport))
	}
	if q.dport == anyPort {
		return words
	}
	return append(words, q.proto, "dport", strconv.Itoa(q.dport))
}

// iptables are the same for iptables(8).
func (q *asked) iptables() []string {
	var words []string
	if q.packet.in != "" {
		words = append(words, "-i", q.packet.in)
	}
	if q.out != "" {
		words = append(words, "-o", q.out)
	}
	words = append(words, "-p", q.proto)
	if q.src != stranger(q.src.Is4()) {
		words = append(words, "-s", q.src.String())
	}
	words = append(words, "-d", q.dst.String())
	if q.sport != anyPort {
		return append(words, "--sport", strconv.Itoa(q.sport))
	}
	if q.dport == anyPort {
		return words
	}
	return append(words, "--dport", strconv.Itoa(q.dport))
}
