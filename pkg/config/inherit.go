package config

import (
	"reflect"
	"slices"
)

// inheritDefaults gives every peer in the document what it lacks and
// bgp.defaults has, key by key. It works on the document rather than on what was
// decoded, so that an inherited value is decoded and judged like an own one.
func inheritDefaults(root *node) {
	template := root.get("bgp").get("defaults")
	if template == nil || template.kind != kindMapping {
		return
	}
	template = template.inherited("bgp.defaults")
	shared := fields(reflect.TypeFor[rawSession]())
	template.pairs = slices.DeleteFunc(template.pairs, func(p pair) bool { // what must not be there is reported there
		return !slices.ContainsFunc(shared, func(f reflect.StructField) bool { return f.Tag.Get("key") == p.key })
	})
	for _, one := range root.get("interfaces").list() {
		for _, p := range one.get("peers").list() {
			p.complete(template)
		}
	}
	remote := *template
	remote.pairs = slices.DeleteFunc(slices.Clone(template.pairs), onLink)
	for _, p := range root.get("peers").list() {
		p.complete(&remote)
	}
}

// onLink tells whether the pair concerns only peers that are on the link.
func onLink(p pair) bool {
	if p.key == "bfd" {
		multihop := p.value.get("multihop")
		return multihop == nil || multihop.text != "true"
	}
	return p.key == "ttl_security"
}

// get returns the value of the key, or nil.
func (n *node) get(key string) *node {
	if n != nil {
		for _, p := range n.pairs {
			if p.key == key {
				return p.value
			}
		}
	}
	return nil
}

func (n *node) list() []*node {
	if n == nil {
		return nil
	}
	return n.items
}

// inherited returns a copy of n, which stands at home, that knows so.
func (n *node) inherited(home string) *node {
	c := &node{kind: n.kind, text: n.text, line: n.line, home: home}
	for i, p := range n.pairs {
		if slices.ContainsFunc(n.pairs[:i], func(q pair) bool { return q.key == p.key }) {
			continue // reported where it stands
		}
		c.pairs = append(c.pairs, pair{key: p.key, line: p.line, value: p.value.inherited(join(home, p.key))})
	}
	for i, item := range n.items {
		c.items = append(c.items, item.inherited(index(home, i)))
	}
	return c
}

// complete adds what n lacks of template, in the mappings of both too.
func (n *node) complete(template *node) {
	if n.kind != kindMapping {
		return
	}
	for _, p := range template.pairs {
		own := n.get(p.key)
		switch {
		case own == nil && p.key == "keepalive" && n.get("hold_time") != nil:
			// Who sets a hold time alone gets a third of it.
		case own == nil:
			n.pairs = append(n.pairs, p)
		case own.kind == kindMapping && p.value.kind == kindMapping:
			own.complete(p.value)
		}
	}
}
