// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// FrontProxyName is the name that the API server shows to extension API servers.
const FrontProxyName = "front-proxy-client"

// FrontProxy is who the API server is to extension API servers. With its flags
// the control plane has an aggregation layer.
type FrontProxy struct {
	// Authority signs who may say for whom a request is made.
	Authority *Authority

	dir string
}

// NewFrontProxy makes one, with its files in dir.
func NewFrontProxy(dir string) (*FrontProxy, error) {
	authority, err := NewAuthority("front-proxy")
	if err != nil {
		return nil, err
	}
	own, err := authority.Issue(FrontProxyName)
	if err != nil {
		return nil, err
	}
	p := &FrontProxy{Authority: authority, dir: dir}
	if err := own.Write(dir); err != nil {
		return nil, err
	}
	return p, os.WriteFile(p.file("ca.crt"), authority.PEM, 0o600)
}

func (p *FrontProxy) file(name string) string { return filepath.Join(p.dir, name) }

// Flags are the API server's, as kubeadm sets them.
func (p *FrontProxy) Flags() []Flag {
	return []Flag{
		{"proxy-client-cert-file", p.file("tls.crt")},
		{"proxy-client-key-file", p.file("tls.key")},
		{"requestheader-client-ca-file", p.file("ca.crt")},
		{"requestheader-allowed-names", FrontProxyName},
		{"requestheader-username-headers", "X-Remote-User"},
		{"requestheader-group-headers", "X-Remote-Group"},
		{"requestheader-extra-headers-prefix", "X-Remote-Extra-"},
	}
}

// AdminKubeconfig writes an admin's kubeconfig, and returns its path.
func (c *ControlPlane) AdminKubeconfig() (string, error) {
	path := filepath.Join(c.dir, "admin.kubeconfig")
	return path, os.WriteFile(path, c.env.KubeConfig, 0o600)
}

// AddUser makes a user who has no rights, and returns how to be that user: in
// this process, and as a kubeconfig.
func (c *ControlPlane) AddUser(name string, groups ...string) (*rest.Config, string, error) {
	user, err := c.env.AddUser(envtest.User{Name: name, Groups: groups}, &rest.Config{QPS: -1})
	if err != nil {
		return nil, "", fmt.Errorf("adding user %s: %w", name, err)
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(c.dir, name+".kubeconfig")
	return user.Config(), path, os.WriteFile(path, kubeconfig, 0o600)
}
