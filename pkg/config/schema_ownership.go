package config

import (
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"strings"
	"time"
)

type rawOwnership struct {
	Host     string        `key:"host" default:""`
	Lease    time.Duration `key:"lease" default:"5s" range:"3s..5m" whole:"true"`
	Handover time.Duration `key:"handover" default:"1s" range:"200ms..5m"`
	Etcd     rawEtcd       `key:"etcd"`
}

type rawEtcd struct {
	Endpoints    []string `key:"endpoints" required:"true" single:"true"`
	Username     string   `key:"username" default:""`
	PasswordFile *string  `key:"password_file"`
	Prefix       string   `key:"prefix" default:"/vipspeaker/"`
	TLS          rawTLS   `key:"tls"`
}

type rawTLS struct {
	CAFile     string `key:"ca_file" default:""`
	CertFile   string `key:"cert_file" default:""`
	KeyFile    string `key:"key_file" default:""`
	ServerName string `key:"server_name" default:""`
}

const ownershipPath = "ownership"

// longestPassword bounds what is read of a password file.
const longestPassword = 1024

func ownership(raw *rawOwnership, r *report) *Ownership {
	if raw == nil {
		return nil
	}
	path := ownershipPath + ".etcd"
	o := &Ownership{
		Host: raw.Host, Lease: raw.Lease, Handover: raw.Handover,
		Etcd: Etcd{Endpoints: raw.Etcd.Endpoints, Username: raw.Etcd.Username, Prefix: raw.Etcd.Prefix},
	}
	if raw.Etcd.PasswordFile != nil {
		o.Etcd.Password = secretFile(*raw.Etcd.PasswordFile, r, path+".password_file", "password", "a password", longestPassword)
	}
	secure := false
	for _, e := range raw.Etcd.Endpoints {
		secure = secure || strings.HasPrefix(e, "https://")
	}
	if secure || raw.Etcd.TLS != (rawTLS{}) {
		o.Etcd.TLS = clientTLS(raw.Etcd.TLS, r, path+".tls")
	}
	return o
}

// clientTLS reads certificates and keys.
func clientTLS(raw rawTLS, r *report, path string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: raw.ServerName}
	read := func(key, file string) []byte {
		place := path + "." + key
		switch {
		case file == "" || !r.ok(place):
			return nil
		case !filepath.IsAbs(file):
			r.add(place, "must be an absolute path")
			return nil
		}
		data, err := readLimited(file, 1<<20)
		if err != nil {
			r.add(place, "cannot be read: %s", reason(err))
		}
		return data
	}
	if roots := read("ca_file", raw.CAFile); roots != nil {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(roots) {
			r.add(path+".ca_file", "holds no certificate in PEM")
		}
	}
	cert, key := read("cert_file", raw.CertFile), read("key_file", raw.KeyFile)
	switch {
	case raw.CertFile != "" && raw.KeyFile == "":
		r.add(path+".cert_file", "needs key_file")
	case raw.CertFile == "" && raw.KeyFile != "":
		r.add(path+".key_file", "needs cert_file")
	case cert != nil && key != nil:
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			r.add(path+".cert_file", "is no pair with key_file: %s", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}
