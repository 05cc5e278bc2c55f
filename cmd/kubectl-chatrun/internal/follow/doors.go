// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package follow

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// resource is what errors call a run.
var resource = schema.GroupResource{Group: "chatrun.dev", Resource: "chatruns"}

// group is the API that the front door serves.
const group = "/apis/stream.chatrun.dev/v1alpha1"

// early is how long a manager waits for a run that its cache does not have yet.
const early = "10s"

// FrontDoor is the API server's.
type FrontDoor struct {
	client *http.Client
	base   string
}

// NewFrontDoor makes one of a kubeconfig.
func NewFrontDoor(cfg *rest.Config) (*FrontDoor, error) {
	client, base, err := reach(cfg)
	if err != nil {
		return nil, err
	}
	return &FrontDoor{client, base}, nil
}

// Name implements Door.
func (*FrontDoor) Name() string { return "the API server's front door" }

// Open implements Door.
func (d *FrontDoor) Open(ctx context.Context, run Key, after string, follow bool) (*http.Response, error) {
	return get(ctx, d.client, d.base+group+"/namespaces/"+run.Namespace+"/chatruns/"+run.Name+"/log", after, follow)
}

// Stands says whether the door was built into the API server. One that is shut for a
// while counts as well. It asks once.
func (d *FrontDoor) Stands(ctx context.Context) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+group, nil)
	if err != nil {
		return false, err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return false, err
	}
	return resp.StatusCode != http.StatusNotFound, resp.Body.Close()
}

// Address is a manager at an address that was given.
type Address struct {
	client *http.Client
	base   string
}

// Trust says how a manager is reached that is not behind the API server.
type Trust struct {
	// CAFile holds the authority of its certificate; without it the system's count.
	CAFile string
	// Insecure does not check the certificate.
	Insecure bool
	// ServerName is the name in the certificate, if it is not that of the address.
	ServerName string
	// TokenFile holds a token of Kubernetes; without it that of the kubeconfig counts.
	TokenFile string
}

// NewAddress makes one of a URL such as https://host:8090.
func NewAddress(cfg *rest.Config, address string, trust Trust) (*Address, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("%q is no address of a manager: give a URL such as https://chatrun.example:8090", address)
	}
	// A token is for nobody on the way. Plain HTTP is the door that asks for none.
	own := &rest.Config{}
	if u.Scheme == "https" {
		if own, err = bearing(cfg, trust); err != nil {
			return nil, err
		}
	}
	own.Host = strings.TrimSuffix(address, "/")
	client, base, err := reach(own)
	if err != nil {
		return nil, err
	}
	return &Address{client, base}, nil
}

// Name implements Door.
func (d *Address) Name() string { return d.base }

// Open implements Door.
func (d *Address) Open(ctx context.Context, run Key, after string, follow bool) (*http.Response, error) {
	return get(ctx, d.client, d.base+path(run), after, follow)
}

// path is that of a stream at the manager's own door.
func path(run Key) string {
	return "/v1/namespaces/" + run.Namespace + "/chatruns/" + run.Name + "/stream"
}

func get(ctx context.Context, client *http.Client, address, after string, follow bool) (*http.Response, error) {
	query := url.Values{"follow": {fmt.Sprint(follow)}}
	if follow {
		query.Set("wait", early)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream, application/json")
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	return client.Do(req)
}

// reach is a client of a server, and the address that it answers at.
func reach(cfg *rest.Config) (*http.Client, string, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = 0 // a stream lasts as long as its run
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, "", err
	}
	shared, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, "", err
	}
	// The token is put on each request, also on one that an answer leads to elsewhere.
	client := *shared
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client, strings.TrimSuffix(base.String(), "/"), nil
}

// bearing is a kubeconfig's user for a manager: its token and nothing else. What the
// kubeconfig trusts is for the API server alone.
func bearing(cfg *rest.Config, trust Trust) (*rest.Config, error) {
	own := rest.AnonymousClientConfig(cfg)
	own.TLSClientConfig = rest.TLSClientConfig{CAFile: trust.CAFile, Insecure: trust.Insecure, ServerName: trust.ServerName}
	own.BearerToken, own.BearerTokenFile = cfg.BearerToken, cfg.BearerTokenFile
	own.ExecProvider, own.AuthProvider = cfg.ExecProvider, cfg.AuthProvider
	own.AuthConfigPersister = cfg.AuthConfigPersister
	if trust.TokenFile != "" {
		raw, err := os.ReadFile(trust.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("reading --stream-token-file: %w", err)
		}
		own.BearerToken, own.BearerTokenFile = strings.TrimSpace(string(raw)), ""
		own.ExecProvider, own.AuthProvider = nil, nil
	}
	return own, nil
}

// Bears says whether there is a token to show to a manager.
func (t Trust) Bears(cfg *rest.Config) bool {
	return t.TokenFile != "" || cfg.BearerToken != "" || cfg.BearerTokenFile != "" || cfg.ExecProvider != nil || cfg.AuthProvider != nil
}
