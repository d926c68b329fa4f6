package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// nftWait bounds the reading of a ruleset, which can be large.
const nftWait = 20 * time.Second

// firewall is the ruleset of nf_tables, as nft -j tells it
// (libnftables-json(5)), or why it is not known.
type firewall struct {
	chains []*chain
	// sets are the elements of named sets and maps, by table and name.
	sets    map[string][]any
	unknown string
	// legacy are the tables of iptables-legacy, which nft does not show.
	legacy []string
}

// chain is a chain with its rules.
type chain struct {
	family, table, name string
	kind, hook, dev     string // empty unless a base chain
	priority            float64
	policy              string
	rules               []fwRule
}

func (c *chain) String() string { return "table " + c.family + " " + c.table + ", chain " + c.name }

// words name the chain for nft.
func (c *chain) words() []string { return []string{c.family, c.table, c.name} }

// fwRule is one rule.
type fwRule struct {
	handle int
	expr   []map[string]any
}

// ruleset reads the firewall once; ok is false, and it is said, if it is not
// known.
func (e *exam) ruleset() (*firewall, bool) {
	if e.fw == nil {
		e.fw = readFirewall(e.ctx)
	}
	if len(e.fw.legacy) > 0 {
		e.cannot("tables of iptables-legacy are in use (%s) and are not looked into; iptables-legacy-save shows them", strings.Join(e.fw.legacy, ", "))
	}
	if e.fw.unknown != "" {
		e.cannot("%s", e.fw.unknown)
		return nil, false
	}
	return e.fw, true
}

func readFirewall(ctx context.Context) *firewall {
	f := &firewall{sets: map[string][]any{}}
	for _, family := range []string{"ip", "ip6"} {
		if data, err := os.ReadFile("/proc/net/" + family + "_tables_names"); err == nil { //nolint:gosec // of the kernel
			for name := range strings.FieldsSeq(string(data)) {
				f.legacy = append(f.legacy, family+" "+name)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, nftWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-j", "list", "ruleset")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err := cmd.Run()
	said := strings.TrimSpace(stderr.String())
	switch {
	case errors.Is(err, exec.ErrNotFound):
		f.unknown = "nft is not installed, so the firewall's rules cannot be read"
	case err != nil && strings.Contains(said, "not permitted"):
		f.unknown = "reading the firewall's rules needs CAP_NET_ADMIN: run it as root"
	case err != nil && strings.Contains(said, "not supported"):
		// A kernel without nf_tables has no rules.
	case err != nil:
		f.unknown = fmt.Sprintf("nft -j list ruleset: %v: %s", err, firstLine(said))
	default:
		if err := f.decode(stdout.Bytes()); err != nil {
			f.unknown = fmt.Sprintf("the output of nft is not understood: %v", err)
		}
	}
	return f
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// nftObject is one of the objects that nft lists.
type nftObject struct {
	Chain *struct {
		Family, Table, Name, Type, Hook, Dev, Policy string
		Prio                                         any
	}
	Rule *struct {
		Family, Table, Chain string
		Handle               int
		Expr                 []map[string]any
	}
	Set *nftSet
	Map *nftSet
}

type nftSet struct {
	Family, Table, Name string
	Elem                []any
}

func (f *firewall) decode(data []byte) error {
	var list struct{ Nftables []nftObject }
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	for i := range list.Nftables {
		o := &list.Nftables[i]
		for _, s := range []*nftSet{o.Set, o.Map} {
			if s != nil {
				f.sets[s.Family+" "+s.Table+" "+s.Name] = s.Elem
			}
		}
		if c := o.Chain; c != nil {
			priority, _ := c.Prio.(float64)
			f.chains = append(f.chains, &chain{
				family: c.Family, table: c.Table, name: c.Name, kind: c.Type, hook: c.Hook, dev: c.Dev, policy: c.Policy, priority: priority,
			})
		}
	}
	for i := range list.Nftables {
		if r := list.Nftables[i].Rule; r != nil {
			if c := f.chain(r.Family, r.Table, r.Chain); c != nil {
				c.rules = append(c.rules, fwRule{r.Handle, r.Expr})
			}
		}
	}
	slices.SortStableFunc(f.chains, func(a, b *chain) int { return int(a.priority - b.priority) })
	return nil
}

func (f *firewall) chain(family, table, name string) *chain {
	i := slices.IndexFunc(f.chains, func(c *chain) bool { return c.family == family && c.table == table && c.name == name })
	if i < 0 {
		return nil
	}
	return f.chains[i]
}

// commands makes them the cure of a finding: what is printed is what --fix runs.
func commands(f *Finding, do, undo [][]string) {
	var lines []string
	for _, words := range do {
		lines = append(lines, shell(words))
	}
	f.Command = strings.Join(lines, "\n")
	lines = nil
	for _, words := range undo {
		lines = append(lines, shell(words))
	}
	f.Undo = strings.Join(lines, "\n")
	f.fix = func(ctx context.Context) (did []string, err error) {
		for _, words := range do {
			bounded, cancel := context.WithTimeout(ctx, nftWait)
			out, err := exec.CommandContext(bounded, words[0], words[1:]...).CombinedOutput() //nolint:gosec // built by us
			cancel()
			if err != nil {
				return did, fmt.Errorf("%s: %w: %s", shell(words), err, bytes.TrimSpace(out))
			}
			did = append(did, "ran "+shell(words))
		}
		return did, nil
	}
}

// shell is a command for a shell.
func shell(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if quoted[i] = w; strings.ContainsAny(w, " \"'{}[];$()|*?&<>`~#!\\") {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
