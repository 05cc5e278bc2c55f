// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// accountName is the ServiceAccount's in config/rbac.
const accountName = "manager"

// Account is the ServiceAccount of replicas that relay streams, with the rights of
// config/rbac in its namespace, and Pods for those who run as processes.
type Account struct {
	// Kubeconfig is the account's, and TokenFile holds the token that it sends to other
	// replicas.
	Kubeconfig, TokenFile string
	// Config is the account's as well.
	Config *rest.Config

	admin     kubernetes.Interface
	namespace string
}

// AddAccount makes it in a namespace, with its files in dir. It may work in all
// namespaces, or in those that are named alone, by Roles.
func (c *ControlPlane) AddAccount(ctx context.Context, namespace, dir string, watched ...string) (*Account, error) {
	admin, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return nil, err
	}
	a := &Account{
		Kubeconfig: filepath.Join(dir, "account.kubeconfig"), TokenFile: filepath.Join(dir, "relay-token"),
		Config: rest.AnonymousClientConfig(c.Config), admin: admin, namespace: namespace,
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: accountName}}
	if _, err := admin.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: accountName}}
	for _, file := range []string{"replica_role.yaml", "relay_role.yaml", "stream_ticket_role.yaml"} {
		role := &rbacv1.Role{}
		if err := readRBAC(file, role); err != nil {
			return nil, err
		}
		if err := c.grant(ctx, namespace, role, subjects); err != nil {
			return nil, err
		}
	}
	if err := c.letWork(ctx, namespace, subjects, watched); err != nil {
		return nil, err
	}
	token, err := a.Token(ctx)
	if err != nil {
		return nil, err
	}
	relay, err := a.Token(ctx, "chatrun.dev/relay")
	if err != nil {
		return nil, err
	}
	a.Config.QPS, a.Config.BearerToken = -1, token
	config := clientcmdapi.NewConfig()
	config.Clusters["x"] = &clientcmdapi.Cluster{Server: c.Config.Host, CertificateAuthorityData: c.Config.CAData}
	config.AuthInfos["x"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "x", AuthInfo: "x"}
	config.CurrentContext = "x"
	raw, err := clientcmd.Write(*config)
	if err != nil {
		return nil, err
	}
	return a, errors.Join(os.WriteFile(a.Kubeconfig, raw, 0o600), os.WriteFile(a.TokenFile, []byte(relay), 0o600))
}

// grant gives subjects the rights of a role of config/rbac in a namespace.
func (c *ControlPlane) grant(ctx context.Context, namespace string, role *rbacv1.Role, subjects []rbacv1.Subject) error {
	role.Namespace, role.Name = namespace, accountName+"-"+role.Name
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name, Namespace: namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name}, Subjects: subjects,
	}
	return errors.Join(c.Client.Create(ctx, role), c.Client.Create(ctx, binding))
}

// letWork gives subjects the rights to carry out runs, of all namespaces or of those
// that are watched. What reviews readers is of the cluster in any case.
func (c *ControlPlane) letWork(ctx context.Context, namespace string, subjects []rbacv1.Subject, watched []string) error {
	role := "manager-role"
	if len(watched) > 0 {
		role = "system:auth-delegator"
	}
	errs := []error{c.Client.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: namespace + "-" + accountName},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: subjects,
	})}
	for _, in := range watched {
		everywhere, here := &rbacv1.ClusterRole{}, &rbacv1.Role{}
		errs = append(errs, readRBAC("role.yaml", everywhere))
		here.Name = everywhere.Name
		here.Rules = slices.DeleteFunc(everywhere.Rules, func(r rbacv1.PolicyRule) bool {
			return r.APIGroups[0] == "authentication.k8s.io" || r.APIGroups[0] == "authorization.k8s.io"
		})
		errs = append(errs, c.grant(ctx, in, here, subjects))
	}
	return errors.Join(errs...)
}

// Token asks for one of the account, as the kubelet does.
func (a *Account) Token(ctx context.Context, audiences ...string) (string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: new(int64(3600))}}
	answer, err := a.admin.CoreV1().ServiceAccounts(a.namespace).CreateToken(ctx, accountName, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	return answer.Status.Token, nil
}

// Pod makes the Pod of a replica, as a node on loopback would have it.
func (a *Account) Pod(ctx context.Context, name string) error {
	pods := a.admin.CoreV1().Pods(a.namespace)
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{ServiceAccountName: accountName, Containers: []corev1.Container{{Name: "manager", Image: "none"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIP, pod.Status.PodIPs = "127.0.0.1", []corev1.PodIP{{IP: "127.0.0.1"}}
	_, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

// RelayArgs are the flags of a replica that relays, at a port of its own.
func (a *Account) RelayArgs() ([]string, error) {
	address, err := freeAddress(loopback)
	if err != nil {
		return nil, err
	}
	return []string{
		"--relay-bind-address", address, "--relay-advertise-address", address,
		"--relay-token-file", a.TokenFile, "--relay-ca-secret", a.namespace + "/chatrun-relay-ca",
	}, nil
}
