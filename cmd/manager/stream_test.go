// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"chatrun.dev/operator/internal/streamer"
)

// TestStreamFlags: each mistake is refused at the start, and said by its flag.
func TestStreamFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		args string
		err  string // part of it, "" for none
	}{
		"nothing":                   {"", ""},
		"everything":                {"--stream-bind-address=:1 --stream-cert-dir=d --stream-cors-allowed-origins=https://a.example,http://localhost:3000 --stream-max-readers=1 --stream-max-readers-per-run=1 --stream-log-bytes=1 --stream-log-total-bytes=1 --stream-log-grace=0s --stream-ticket-secret=ns/name --stream-front-door", ""},
		"certificate files":         {"--stream-tls-cert-file=c --stream-tls-key-file=k", ""},
		"no bounds":                 {"--stream-max-readers=0 --stream-max-readers-per-run=0", ""},
		"no tickets":                {"--stream-ticket-secret=", ""},
		"all origins":               {"--stream-cors-allowed-origins=*", ""},
		"an origin by address":      {"--stream-cors-allowed-origins=http://[::1]:3000,http://127.0.0.1", ""},
		"local":                     {"--stream-local", ""},
		"local, another port":       {"--stream-local --stream-bind-address=127.0.0.1:1", ""},
		"local by name":             {"--stream-local --stream-bind-address=localhost:1", ""},
		"local by IPv6":             {"--stream-local --stream-bind-address=[::1]:1", ""},
		"local, but off":            {"--stream-local --stream-front-door --stream-bind-address=0", ""},
		"local for all":             {"--stream-local --stream-bind-address=:8090", "must be on loopback"},
		"local for all by IPv6":     {"--stream-local --stream-bind-address=[::]:8090", "must be on loopback"},
		"local for all by IPv4":     {"--stream-local --stream-bind-address=0.0.0.0:8090", "must be on loopback"},
		"local in the network":      {"--stream-local --stream-bind-address=192.168.1.2:8090", "must be on loopback"},
		"local by another name":     {"--stream-local --stream-bind-address=my-machine:8090", "must be on loopback"},
		"local by a like name":      {"--stream-local --stream-bind-address=localhost.example:8090", "must be on loopback"},
		"local behind a front door": {"--stream-local --stream-front-door", "exclude each other"},
		"local with a certificate":  {"--stream-local --stream-cert-dir=d", "takes no certificate"},
		"two certificates":          {"--stream-cert-dir=d --stream-tls-cert-file=c --stream-tls-key-file=k", "exclude each other"},
		"a certificate alone":       {"--stream-tls-cert-file=c", "need each other"},
		"a key alone":               {"--stream-tls-key-file=k", "need each other"},
		"readers below none":        {"--stream-max-readers=-1", "--stream-max-readers"},
		"readers of a run":          {"--stream-max-readers-per-run=-1", "--stream-max-readers-per-run"},
		"no log":                    {"--stream-log-bytes=0", "--stream-log-bytes"},
		"a log above all":           {"--stream-log-bytes=2 --stream-log-total-bytes=1", "--stream-log-total-bytes"},
		"a grace before now":        {"--stream-log-grace=-1s", "--stream-log-grace"},
		"a grace that is none":      {"--stream-log-grace=long", "invalid value"},
		"a Secret no one can have":  {"--stream-ticket-secret=My_Secret", "--stream-ticket-secret"},
		"a namespace likewise":      {"--stream-ticket-secret=a.b/name", "--stream-ticket-secret"},
		"no namespace":              {"--stream-ticket-secret=/name", "--stream-ticket-secret"},
		"no name":                   {"--stream-ticket-secret=ns/", "--stream-ticket-secret"},
		"an origin with a path":     {"--stream-cors-allowed-origins=https://a.example/", "--stream-cors-allowed-origins"},
		"an origin with a pattern":  {"--stream-cors-allowed-origins=https://*.example", "--stream-cors-allowed-origins"},
		"an origin without scheme":  {"--stream-cors-allowed-origins=a.example", "--stream-cors-allowed-origins"},
		"an origin of a file":       {"--stream-cors-allowed-origins=file://a", "--stream-cors-allowed-origins"},
		"an origin with a user":     {"--stream-cors-allowed-origins=https://u@a.example", "--stream-cors-allowed-origins"},
		"an origin in capitals":     {"--stream-cors-allowed-origins=https://A.example", "--stream-cors-allowed-origins"},
		"no origin":                 {"--stream-cors-allowed-origins=null", "--stream-cors-allowed-origins"},
		"no address":                {"--stream-bind-address=here", "--stream-bind-address"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(append([]string{"--worker-name=me"}, strings.Fields(tc.args)...))
			switch {
			case tc.err == "" && err != nil:
				t.Error(err)
			case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
				t.Errorf("error %v, want one that says %q", err, tc.err)
			}
		})
	}
}

// TestStreamAddress: without a flag the endpoint is for all, or for this machine.
func TestStreamAddress(t *testing.T) {
	for args, want := range map[string]string{
		"":                                  ":8090",
		"--stream-bind-address=127.0.0.1:1": "127.0.0.1:1",
		"--stream-bind-address=":            "0",
		"--stream-local":                    "127.0.0.1:8090",
		"--stream-local --stream-bind-address=LocalHost:1": "127.0.0.1:1",
		"--stream-local --stream-bind-address=[::1]:1":     "[::1]:1",
		"--stream-local --stream-bind-address=0":           "0",
		"--stream-local --stream-bind-address=":            "0",
	} {
		o, err := parse(append([]string{"--worker-name=me"}, strings.Fields(args)...))
		if err != nil || o.stream.address != want {
			t.Errorf("%q: %+v, %v", args, o, err)
		}
	}
}

// TestStreamDefaults are the library's, so that there is one place for each.
func TestStreamDefaults(t *testing.T) {
	o, err := parse([]string{"--worker-name=me"})
	if err != nil {
		t.Fatal(err)
	}
	want := streamOptions{
		address: ":8090", maxReaders: streamer.DefaultMaxReaders, maxReadersPerRun: streamer.DefaultMaxReadersPerRun,
		logBytes: streamer.DefaultLogBytes, logTotalBytes: streamer.DefaultTotalBytes, logGrace: streamer.DefaultGrace,
		ticketSecret: "chatrun-stream-tickets", page: true,
	}
	if o.stream != want {
		t.Errorf("%+v", o.stream)
	}
	if o.stream.logGrace < time.Second {
		t.Error("no time to come back")
	}
}

func TestTicketSecret(t *testing.T) {
	for value, want := range map[string]types.NamespacedName{
		"":        {},
		"name":    {Namespace: "own", Name: "name"},
		"ns/name": {Namespace: "ns", Name: "name"},
	} {
		got, err := (&streamOptions{ticketSecret: value}).secret("own")
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", value, got, err)
		}
	}
}

func TestCertificateFiles(t *testing.T) {
	for _, tc := range []struct {
		o         streamOptions
		cert, key string
	}{
		{streamOptions{}, "", ""},
		{streamOptions{certDir: "d"}, filepath.Join("d", "tls.crt"), filepath.Join("d", "tls.key")},
		{streamOptions{certFile: "c", keyFile: "k"}, "c", "k"},
	} {
		if cert, key := tc.o.certificate(); cert != tc.cert || key != tc.key {
			t.Errorf("%+v: %q, %q", tc.o, cert, key)
		}
	}
}
