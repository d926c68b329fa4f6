package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/control"
	"vipspeaker/pkg/owner"
	"vipspeaker/pkg/speaker"
)

// ownership makes the keeper of the leases, if the configuration asks for one.
func (d *daemon) ownership(c *config.Ownership) error {
	if c == nil {
		return nil
	}
	machine, err := os.Hostname()
	if err != nil && c.Host == "" {
		return fmt.Errorf("ownership.host is not given: %w", err)
	}
	instance, err := instance()
	if err != nil {
		return err
	}
	d.owners = owner.New(owner.Options{
		Log: d.log, Poke: d.signal.Poke, Host: cmp.Or(c.Host, machine), Instance: instance, Machine: machine,
		Config: owner.Config{
			Endpoints: c.Etcd.Endpoints, Username: c.Etcd.Username, Password: string(c.Etcd.Password), TLS: c.Etcd.TLS,
			Prefix: c.Etcd.Prefix, Lease: c.Lease, Handover: c.Handover,
		},
	})
	return nil
}

// instance tells this daemon from those of other machines and other network
// namespaces. There is one in a namespace at a time (takeNetwork), so the one that
// had the same before this one is no more.
func instance() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("tell this machine from others: %w", err)
	}
	network, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return "", fmt.Errorf("tell this network namespace from others: %w", err)
	}
	return strings.TrimSpace(string(boot)) + " " + network, nil
}

// loopOwners is the keeper for the loop, nil for none.
func (d *daemon) loopOwners() speaker.Owners {
	if d.owners == nil {
		return nil
	}
	return d.owners
}

// sameOwnership refuses a reload that changes where the leases are: whoever gives
// one up and takes another must not announce in between.
func sameOwnership(a, b *config.Ownership) error {
	plain := func(o *config.Ownership) (c config.Ownership) {
		if o != nil {
			c = *o
			c.Etcd.TLS = nil // what is in its files is read at the start
		}
		return c
	}
	if (a == nil) != (b == nil) || !reflect.DeepEqual(plain(a), plain(b)) {
		return errors.New("ownership: a change of this section needs a restart of the daemon")
	}
	return nil
}

// moveTime bounds an order to etcd: who gave it waits for the answer, and not as long as
// a lease may last.
const moveTime = 10 * time.Second

// move has a VIP handed over.
func (d *daemon) move(ctx context.Context, name, to string) (revision int64, err error) {
	_, v, err := d.vipOf(name)
	switch {
	case err != nil:
		return 0, err
	case to == "":
		return 0, control.Refuse(http.StatusBadRequest, "give to, the host that is to own %s (its ownership.host)", v.Name)
	case d.owners == nil || v.Role == nil || !v.Role.Leased:
		return 0, fmt.Errorf("%s has no owner to be moved: it needs exclusive: true, and the configuration ownership", v.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	if revision, err = d.owners.Move(ctx, v.Prefix, to); owner.Unanswered(err) {
		err = control.Refuse(http.StatusServiceUnavailable, "etcd has not confirmed the order: %w", err)
	}
	return revision, err
}
