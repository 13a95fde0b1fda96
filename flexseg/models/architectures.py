"""All architectures of flexseg by name, as gin knows them: `build_model.architecture = @u2net`."""

from flexseg.models.attention_unet import attention_unet
from flexseg.models.basnet import basnet
from flexseg.models.deeplabv3_plus import deeplabv3_plus
from flexseg.models.efficient_unet import efficient_unet
from flexseg.models.encoder_unet import encoder_unet
from flexseg.models.flex_unet import flex_unet
from flexseg.models.fpn import fpn
from flexseg.models.multires_unet import multires_unet
from flexseg.models.sharp_unet import sharp_unet
from flexseg.models.swin_unet import swin_unet
from flexseg.models.transunet import transunet
from flexseg.models.u2net import u2net
from flexseg.models.unet3_plus import unet3_plus
from flexseg.models.xception_unet import xception_unet

ARCHITECTURES = {
    "flex_unet": flex_unet,
    "attention_unet": attention_unet,
    "multires_unet": multires_unet,
    "sharp_unet": sharp_unet,
    "unet3_plus": unet3_plus,
    "u2net": u2net,
    "basnet": basnet,
    "xception_unet": xception_unet,
    "swin_unet": swin_unet,
    "transunet": transunet,
    "deeplabv3_plus": deeplabv3_plus,
    "efficient_unet": efficient_unet,
    "encoder_unet": encoder_unet,
    "fpn": fpn,
}
